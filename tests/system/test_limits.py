# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver that keeps to what it was told never breaks its device: rings of any size, largest requests, many disks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from dom0_backend.probe import Prober
from domU_frontend import blk
from domU_frontend.blk import PAGE, Request
from domU_frontend.frontend import Frontend
from xen_shadowvq.domain import hypervisor_socket
from xen_shadowvq.hypervisor import Hypervisor, grants_per_frame
from xen_shadowvq.xenstore import XenStore

from .conftest import Connect
from .disk_io import SECTOR, IoLoop, goes_on, run, write_and_compare
from .world import BACKEND, FRONTEND, MEDIATOR, MIB, World

DISKS = 20
CONNECTIONS = 4
PAUSE_S = 0.2  # twenty drivers that poll are more than a small machine has processors for
DISK_PAGES = 512
TOTAL = MIB // 2
DYNAMIC = "defaults: {window: dynamic}\n"


def largest(frontend: Frontend, kind: int, shift: int) -> Iterator[Request]:
    """The first half MiB of the disk in the largest requests that there may be, buffers `shift` bytes into a page."""
    geometry = frontend.geometry
    step = geometry.segments_max * geometry.size_max
    base = frontend.driver.gpa(frontend.driver.data_first_page) + shift
    for offset in range(0, TOTAL, step):
        length = min(step, TOTAL - offset)
        yield Request(kind, offset // SECTOR, base + offset, length, segments=-(-length // geometry.size_max))


@pytest.mark.parametrize(
    ("queue_size", "placement"), [(4, "exact"), (4, "copy"), (8, "page"), (64, "exact"), (64, "copy"), (256, "exact")]
)
def test_the_largest_requests_go_through(queue_size: int, placement: str, empty_world: World, connect: Connect) -> None:
    """Requests as large as the device says, in rings of any size, aligned to pages or not, read and write right."""
    empty_world.start_backend()
    empty_world.start_mediator(f"limits: {{queue_size_max: {queue_size}}}\n")
    device = empty_world.attach(empty_world.image("disk.img"), placement=placement)
    frontend = connect(device, queue_size=queue_size)
    assert frontend.geometry.segments_max <= queue_size - 2
    for shift in (0, SECTOR):
        content = random.Random(shift).randbytes(TOTAL)
        buffer = frontend.driver.memory(frontend.driver.gpa(frontend.driver.data_first_page) + shift, TOTAL)
        buffer[:] = content
        run(frontend, [*largest(frontend, blk.OUT, shift)])
        buffer[:] = bytes(TOTAL)
        run(frontend, [*largest(frontend, blk.IN, shift)])
        assert bytes(buffer) == content
    assert empty_world.store.read(f"{empty_world.found(device).path}/error") == ""


def test_twenty_disks_of_one_guest() -> None:
    """With Xen's default of 64 grant table frames, in a window that all share, twenty disks of a guest work at once."""
    with World() as world, ExitStack() as stack:
        for domid, memory_mib in ((MEDIATOR, 16), (BACKEND, 16), (FRONTEND, 64)):
            world.add_domain(domid, memory_mib)
        world.start_backend()
        world.start_mediator(DYNAMIC)
        loops = []
        for number in range(DISKS):
            device = world.attach(world.image(f"disk{number}.img"))
            where = {"pages": DISK_PAGES, "first_gfn": number * DISK_PAGES, "queue_size": 64}
            frontend = stack.enter_context(Frontend(device, sim=(world.sim, FRONTEND), **where))
            frontend.connect()
            loops.append(IoLoop(frontend, number, pause_s=PAUSE_S))
            stack.callback(loops[-1].abandon)
        for one in loops:
            goes_on(world, one, 1)
        assert world.status(0)["window"] == "dynamic"
        assert all(world.status(number)["bytes_zero_copy"] > 0 for number in range(DISKS))
        for one in loops:
            one.stop()


def test_shared_pages_that_a_backend_keeps(world: World, connect: Connect) -> None:
    """A backend that keeps mapped whatever the mediator shares with it costs no more with each connection: its device
    uses the same pages again. So it cannot use up what all devices of the mediator have in common. Nor does it find the
    guest's data in what it keeps, but for what it could have written there itself."""
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    with Hypervisor("backend", hypervisor_socket(world.sim, BACKEND)) as hypervisor:
        shared: list[int] = []
        for number in range(CONNECTIONS):
            write_and_compare(frontend, random.Random(number), 0)
            kept = keep_shared(Prober(hypervisor))
            with world.grant_table(MEDIATOR) as table:
                shared.append(sum(any(table[at : at + 8]) for at in range(0, len(table), 8)))
            frontend.disconnect()
            assert not any(any(hypervisor.library.ffi.buffer(page, PAGE)[:]) for page in kept)
            frontend.reconnect()
        assert shared == [shared[0]] * CONNECTIONS
        frontend.disconnect()
        world.detach(device)


def test_a_backend_has_no_more_queues_than_its_disk_was_attached_with(empty_world: World, connect: Connect) -> None:
    """A backend that says that the device has four queues, in its own nodes, is not believed where the operator
    said one: more queues are more of the mediator's memory."""
    world = empty_world
    world.start_mediator()
    device = world.attach(world.image("disk.img"), queues=1)
    with XenStore.connect(str(world.sim / f"xenstore-dom{BACKEND}.sock")) as store:
        store.write(f"{world.found(device).backend_path}/queues", "4")
    world.start_backend()
    frontend = connect(device)
    assert frontend.store.read(f"{world.found(device).path}/num-queues") == "1"
    assert world.store.read(f"{world.found(device).backend_path}/num-queues") == "4"
    frontend.disconnect()


def keep_shared(prober: Prober) -> list[Any]:
    """Maps all that the mediator shares with the backend, and keeps it mapped; returns what can only be read."""
    read_only: list[Any] = []
    for gref in range(grants_per_frame() * 4):
        page = prober.map(MEDIATOR, gref, writable=True)
        if page is None and (page := prober.map(MEDIATOR, gref, writable=False)) is not None:
            read_only.append(page)
    assert read_only
    return read_only
