# SPDX-License-Identifier: GPL-2.0-or-later
"""The service `shadowvq guests`: disks that come back by themselves, whatever is restarted in whatever order."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from xen_shadowvq.apply import look
from xen_shadowvq.dead_guests import ASKED_AT_ONCE, LINES, let_the_dead_go
from xenstore_schema import nodes

from .conftest import Connect, connector
from .disk_io import read_digest, write_and_compare
from .guests_host import Host
from .keeper import InFlight, Keeper
from .world import BACKEND, FRONTEND, MEDIATOR, OTHER, Service, World

FIRST_LIFE = 10
LIVES = 5
SOME_BYTES = 1 << 20


@pytest.fixture
def host(empty_world: World) -> Host:
    """Nobody serves; the services' domains outlive them."""
    for domid in (MEDIATOR, BACKEND):
        empty_world.keep_alive(domid)
    return Host(empty_world)


@pytest.fixture
def served(host: Host) -> Host:
    """All three services serve."""
    host.world.start_backend()
    host.world.start_mediator()
    host.start_service()
    return host


@pytest.fixture
def life(empty_world: World) -> Iterator[Callable[[int], str]]:
    """What a guest with that id reads from its disk 0, having written to another part of it."""

    def use(domid: int) -> str:
        with ExitStack() as stack:
            frontend = connector(empty_world, stack)(0, domid)
            write_and_compare(frontend, random.Random(domid), SOME_BYTES // 512)
            return read_digest(frontend, SOME_BYTES)

    yield use


def test_a_guest_that_reboots_five_times(served: Host, life: Callable[[int], str]) -> None:
    """Each life, under another id, gets its disks without a command, the same bytes on them, and nothing of an earlier
    life is left."""
    host, world = served, served.world
    host.declare(f"{world.image('a.img')}", f"{world.image('b.img', 1)}, read_only: true")
    digests = set()
    for domid in range(FIRST_LIFE, FIRST_LIFE + LIVES):
        host.live(domid)
        host.until_offered(domid, 0, 1)
        digests.add(life(domid))
        world.until(lambda domid=domid: world.machine.state(domid) in {"dead", "none"}, "end of the life")  # type: ignore[misc]
    assert len(digests) == 1
    world.until(lambda: world.store.ls(f"/local/domain/{MEDIATOR}/backend/virtio") == [], "end of all devices")


SERVICES = ["mediator", "backend", "guests"]


@pytest.mark.parametrize("order", list(itertools.permutations(SERVICES)), ids="-".join)
def test_services_come_back_in_any_order(host: Host, life: Callable[[int], str], order: tuple[str, ...]) -> None:
    """The three services are killed in one order while a guest has its disk; that guest goes and the next life comes;
    then they are started in that order: the guest has its disk."""
    world = host.world
    start: dict[str, Callable[[], Service]] = {
        "mediator": world.start_mediator,
        "backend": world.start_backend,
        "guests": host.start_service,
    }
    running = {name: start[name]() for name in reversed(order)}
    host.declare(f"{world.image('a.img')}")
    host.live(FIRST_LIFE)
    host.until_offered(FIRST_LIFE)
    before = life(FIRST_LIFE)
    for name in order:
        running[name].kill()
    host.live(FIRST_LIFE + 1)
    for name in order:
        start[name]()
    host.until_offered(FIRST_LIFE + 1)
    assert life(FIRST_LIFE + 1) == before


def test_a_mediator_that_starts_after_its_guest_died(served: Host, life: Callable[[int], str]) -> None:
    """A guest dies while no mediator runs, and one is started in a domain that may not ask whether that guest is there:
    it is asked to remove the device, and the next life gets the image, which was locked for the last."""
    host, world = served, served.world
    host.declare(f"{world.image('a.img')}")
    host.live(FIRST_LIFE)
    host.until_offered(FIRST_LIFE)
    with ExitStack() as stack:
        connector(world, stack)(0, FIRST_LIFE)
        world.mediator.kill()
    world.until(lambda: world.machine.state(FIRST_LIFE) == "dead", "end of the guest")
    service = world.services[-1]
    world.until(lambda: service.events("dead_guests_device_withdrawn"), "the end of its device")
    world.start_mediator()
    world.until(lambda: not world.store.ls(f"/local/domain/{BACKEND}/backend/svq/{MEDIATOR}"), "end of the lock")
    host.live(FIRST_LIFE + 1)
    host.until_offered(FIRST_LIFE + 1)
    life(FIRST_LIFE + 1)


def test_a_dead_guests_mediator_does_not_fill_the_log(host: Host) -> None:
    """
    A mediator's domain invents many devices, of many dead guests, and does not let any of them go: the log has some
    lines of it, and how many were left out; a look asks for so many and no more.
    """
    world, guests, devices = host.world, range(1000, 1010), range(20)
    mediator, online = 5, set[str]()
    world.add_domain(mediator)
    for guest, device in itertools.product(guests, devices):
        path = nodes.virtio_back_path(mediator=mediator, frontend=guest, device=device)
        world.store.write(f"{path}/state", "1")
        online.add(f"{path}/online")
    asked = let_the_dead_go(world.dom0, look(world.dom0))[mediator]
    assert len(asked) == len(set(asked)) == ASKED_AT_ONCE
    assert len(let_the_dead_go(world.dom0, look(world.dom0))[mediator]) == len(online) - ASKED_AT_ONCE
    assert let_the_dead_go(world.dom0, look(world.dom0))[mediator] == []

    for path in online:
        world.store.write(path, "1")
    service = host.start_service()
    world.until(lambda: all(world.store.read(path) == "0" for path in online), "requests for all devices")
    for path in online:
        world.store.write(path, "1")
    world.until(lambda: world.store.read(f"{path}") == "0", "another request")
    time.sleep(1.0)
    lines = service.events("dead_guests_device_withdrawn")
    assert LINES <= len(lines) <= LINES + 5
    world.until(lambda: "left_out" in service.events("dead_guests_device_withdrawn")[-1], "how many were left out")
    assert service.events("dead_guests_device_withdrawn")[-1]["left_out"] > len(online) // 2


def test_a_guest_that_stays_keeps_its_disk(served: Host, connect: Connect) -> None:
    """The service is killed and started again, told to end and started again: a guest in the middle of its work sees
    nothing of it, and its device is the same."""
    host, world = served, served.world
    host.declare(f"{world.image('a.img')}")
    world.keep_alive(FRONTEND)
    world.store.write(f"/local/domain/{FRONTEND}/name", "web1")
    host.until_offered(FRONTEND)
    frontend = connect(0)
    record = world.dom0.record(FRONTEND, 0)
    for end in (world.services[-1].kill, lambda: host.start_service().terminate()):
        end()
        write_and_compare(frontend, random.Random(1), 0)
    service = host.start_service()
    world.until(lambda: service.events("declarations_read"), "a look")
    time.sleep(0.5)  # for it to do what it should not
    assert world.dom0.record(FRONTEND, 0) == record and service.events("guest_changed") == []
    write_and_compare(frontend, random.Random(2), 0)


@pytest.mark.parametrize("seed", range(4))
def test_cold_start_in_any_order(seed: int, life: Callable[[int], str], empty_world: World) -> None:
    """A host starts: domains, services and files come in any order, and in the end both guests have their disks."""
    world = empty_world
    for domid in (MEDIATOR, BACKEND, FRONTEND, OTHER):
        world.machine.destroy_domain(domid)
    host = Host(world)
    first, second = world.image("a.img"), world.image("b.img", 1)

    def server(domid: int, start: Callable[[], object]) -> Callable[[], None]:
        def come() -> None:
            world.add_domain(domid)
            world.keep_alive(domid)
            start()

        return come

    coming: list[Callable[[], object]] = [
        server(MEDIATOR, world.start_mediator),
        server(BACKEND, world.start_backend),
        host.start_service,
        lambda: host.live(FIRST_LIFE),
        lambda: host.live(FIRST_LIFE + 1, "web2"),
        lambda: host.declare(f"{first}"),
        lambda: host.declare(f"{second}, device: 4", name="web2"),
    ]
    random.Random(seed).shuffle(coming)
    for come in coming:
        come()
    host.until_offered(FIRST_LIFE)
    host.until_offered(FIRST_LIFE + 1, 4)
    life(FIRST_LIFE)


def test_files_that_change(served: Host) -> None:
    """A disk is added and taken out as its file says; disks attached by hand and those of a bad file stay, also on
    SIGHUP; a file that is removed takes its disks along."""
    host, world = served, served.world
    first, second = world.image("a.img", 1), world.image("b.img", 1)
    host.live(FIRST_LIFE)
    assert world.attach(world.image("hand.img", 1), FIRST_LIFE, device=9) == 9
    host.declare(f"{first}")
    host.until_offered(FIRST_LIFE, 0)
    host.declare(f"{first}", f"{second}")
    host.until_offered(FIRST_LIFE, 1)
    host.declare(f"{second}, device: 1")
    host.until_gone(FIRST_LIFE, 0)
    records = world.dom0.records(FIRST_LIFE)
    host.file().write_text("disks: 1\n")
    service = world.services[-1]
    world.until(lambda: service.events("declaration_refused"), "the word of a bad file")
    (refused,) = service.events("declaration_refused")
    assert refused["reason"].startswith(f"{host.file()}:1: disks: got 1, expected a list of disks")
    service.process.send_signal(signal.SIGHUP)
    host.declare(f"{first}", name="web2")
    host.live(FIRST_LIFE + 1, "web2")
    host.until_offered(FIRST_LIFE + 1)
    assert world.dom0.records(FIRST_LIFE) == records and set(host.digests(FIRST_LIFE)) == {1, 9}
    host.file().unlink()
    host.until_gone(FIRST_LIFE, 1)
    assert host.digests(FIRST_LIFE) == {9: None}


def test_a_device_that_goes_is_attached_again(served: Host) -> None:
    """Somebody detaches a declared disk by hand, and an image that was not there comes: without news, but soon."""
    host, world = served, served.world
    late = world.directory / "late.img"
    host.declare(f"{world.image('a.img', 1)}", f"{late}")
    host.live(FIRST_LIFE)
    host.until_offered(FIRST_LIFE, 0)
    before = world.dom0.record(FIRST_LIFE, 0)
    world.until(lambda: (one := host.device(FIRST_LIFE, 1)) is not None and one.error, "what the backend says")
    world.image("late.img", 1)
    world.detach(0, FIRST_LIFE)
    host.until_offered(FIRST_LIFE, 0, 1)
    assert world.dom0.record(FIRST_LIFE, 0) != before


def test_a_detach_that_waits_holds_up_nobody(served: Host, connect: Connect) -> None:
    """A backend keeps pages of one guest, whose disk is no longer declared: that detach has to wait. Another guest
    gets its disk meanwhile, SIGTERM ends the service at once, and once the pages are free the disk goes."""
    host, world = served, served.world
    world.keep_alive(FRONTEND)
    world.store.write(f"/local/domain/{FRONTEND}/name", "web1")
    host.declare(f"{world.image('a.img')}")
    host.until_offered(FRONTEND)
    in_flight = InFlight(world, connect(0), 0)
    with Keeper(world) as keeper:
        keeper.keep(in_flight.grefs[:2])
        world.backend.resume()
        host.declare()
        world.until(lambda: (one := host.device(FRONTEND)) is not None and one.held_pages, "held pages")
        host.live(FIRST_LIFE, "web2")
        host.declare(f"{world.image('b.img', 1)}", name="web2")
        host.until_offered(FIRST_LIFE)
        held = host.device(FRONTEND)
        assert held is not None and held.held_pages
        assert world.services[-1].terminate() == 0
        assert (stopped := world.services[-1].events("service_stopped")) and len(stopped) == 1
        keeper.let_go()
    host.start_service()
    host.until_gone(FRONTEND)
    assert host.offered(FIRST_LIFE)


def test_without_a_directory_nothing_is_taken_away(host: Host) -> None:
    """A service that starts where the directory is missing says so and detaches nothing, nor does it when it comes."""
    world = host.world
    world.start_backend()
    world.start_mediator()
    host.live(FIRST_LIFE)
    host.declare(f"{world.image('a.img', 1)}")
    assert host.apply().status == 0
    before = world.dom0.records(FIRST_LIFE)
    elsewhere = host.directory.rename(world.directory / "elsewhere")
    service = host.start_service()
    assert "No such file" in service.events("declaration_refused")[0]["reason"]
    elsewhere.rename(host.directory)
    world.until(lambda: service.events("declarations_read"), "a look")
    assert world.dom0.records(FIRST_LIFE) == before and service.events("guest_changed") == []
