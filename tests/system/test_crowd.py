# SPDX-License-Identifier: GPL-2.0-or-later
"""Many commands at once: each does what it would have done alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import pytest

from domU_frontend.frontend import Frontend
from xen_shadowvq import devices, toolstack
from xen_shadowvq.dom0 import Dom0
from xen_shadowvq.new_device import Disk
from xenstore_schema import nodes

from .command import Done, run
from .conftest import Connect, connector
from .world import BACKEND, DEADLINE_S, FRONTEND, MEDIATOR, MIB, OTHER, World

T = TypeVar("T")

pytestmark = pytest.mark.timeout(600)

ASKING, ROUNDS = 12, 5
ATTACHING = 30
PROCESSES = 4  # each a Python that starts
PAGES = 512
NUMBER_MAX = 2**32 - 1
DYNAMIC = "defaults: {window: dynamic}\n"


@pytest.fixture
def connect(shared_world: World) -> Iterator[Connect]:
    """Like the fixture of conftest.py, but in the world that this module shares."""
    shared_world.keep_alive(FRONTEND)
    with ExitStack() as stack:
        yield connector(shared_world, stack)


def crowd(world: World, count: int, work: Callable[[Dom0, int], T]) -> list[T]:
    """What each of so many gets, all at once, each with a connection of its own as a command has."""

    def one(number: int) -> T:
        with Dom0(world.sim) as dom0:
            return work(dom0, number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_many_ask_at_once(shared_world: World, connect: Connect) -> None:
    """Twelve commands that ask for one device's counters at once, over and over, are all answered, and each answer was
    made after its request; also while their numbers begin anew."""
    world = shared_world
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    for path, request in (
        (world.found(device).path, nodes.VirtioBack.STATS_REQUEST),
        (world.found(device).backend_path, nodes.SvqBack.STATS_REQUEST),
    ):
        world.store.write(request.path(path), str(NUMBER_MAX - ASKING * 2))

    def ask_often(dom0: Dom0, _: int) -> list[dict[str, object]]:
        found = devices.find(dom0, FRONTEND, device)
        return [devices.status(dom0, found, DEADLINE_S) for _ in range(ROUNDS)]

    for answers in crowd(world, ASKING, ask_often):
        assert all(answer["state"] == "connected" and "backend_reads" in answer for answer in answers)
    last = nodes.VirtioBack.STATS_REQUEST.read(world.store.read, world.found(device).path)
    assert last == ASKING * (ROUNDS - 2)  # they have begun anew at 1, and none was given twice
    frontend.disconnect()
    world.detach(device)


def test_processes_that_ask_at_once(shared_world: World, connect: Connect) -> None:
    """The same for `shadowvq ctl status` and `resize` as an operator's scripts call them, together."""
    world = shared_world
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    verbs = ["status"] * PROCESSES + ["resize"] * PROCESSES

    def command(number: int) -> Done:
        return run("ctl", verbs[number], f"--sim={world.sim}", str(FRONTEND), str(device), "--json", "--timeout=60")

    with ThreadPoolExecutor(len(verbs)) as pool:
        done = list(pool.map(command, range(len(verbs))))
    assert [one.err for one in done if one.status] == []
    assert {json.loads(one.out)["bytes"] for one in done[PROCESSES:]} == {4 * MIB}
    frontend.disconnect()
    world.detach(device)


def test_many_attach_at_once() -> None:
    """Thirty commands that attach at once give a guest thirty different disks, all of which connect."""
    with World() as world, ExitStack() as stack:
        for domid, memory_mib in ((MEDIATOR, 16), (BACKEND, 16), (FRONTEND, 64)):
            world.add_domain(domid, memory_mib)
        world.start_backend()
        world.start_mediator(DYNAMIC)
        images = [world.image(f"disk{number}.img", 1) for number in range(ATTACHING)]

        def attach(dom0: Dom0, number: int) -> int:
            disk = Disk(str(images[number]))
            device = toolstack.attach(dom0, frontend=FRONTEND, mediator=MEDIATOR, backend=BACKEND, disk=disk)
            toolstack.wait_offered(dom0, FRONTEND, device, DEADLINE_S)
            return device

        assert sorted(crowd(world, ATTACHING, attach)) == list(range(ATTACHING))
        for number in range(ATTACHING):
            room = {"pages": PAGES, "first_gfn": number * PAGES, "queue_size": 64}
            stack.enter_context(Frontend(number, sim=(world.sim, FRONTEND), **room)).connect()


def test_a_mixture_at_once(shared_world: World) -> None:
    """Disks that are attached, asked after, measured, listed, swept and detached all at once, for two guests, are what
    each command says; in the end there is none."""
    world = shared_world
    world.keep_alive(FRONTEND)
    world.keep_alive(OTHER)

    def life(dom0: Dom0, number: int) -> tuple[int, int]:
        guest, disk = (FRONTEND, OTHER)[number % 2], Disk(str(images[number]))
        device = toolstack.attach(dom0, frontend=guest, mediator=MEDIATOR, backend=BACKEND, disk=disk)
        toolstack.wait_offered(dom0, guest, device, DEADLINE_S)
        found = devices.find(dom0, guest, device)
        assert devices.status(dom0, found, DEADLINE_S)["device"] == device
        assert devices.resize(dom0, found, DEADLINE_S) == MIB
        assert (guest, device) in {(one.frontend, one.device) for one in devices.list_devices(dom0)}
        toolstack.detach(dom0, guest, device, DEADLINE_S)
        return guest, device

    def command(dom0: Dom0, number: int) -> object:
        if number < ASKING:
            return life(dom0, number)
        for _ in range(ROUNDS):
            with dom0.alone():
                toolstack.tidy(dom0)
            devices.list_devices(dom0)
        return None

    images = [world.image(f"mixed{number}.img", 1) for number in range(ASKING)]
    crowd(world, ASKING + 2, command)
    with Dom0(world.sim) as dom0:
        assert devices.list_devices(dom0) == []
