# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mediator that died had granted is taken back before anybody hears of an end: by the next one, or by dom0."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from domU_frontend.frontend import Frontend
from xen_shadowvq import toolstack
from xen_shadowvq.embedded.machine import PRIVILEGE_ALL, DomainSpec
from xen_shadowvq.embedded.xs_wire import Message, Op
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.new_device import Disk

from .command import Done, ask
from .conftest import Connect, Loop
from .disk_io import goes_on, write_and_compare
from .held_pages import KEPT, PAGES, SHORT_S, heads, held, is_not_closed
from .keeper import InFlight, Keeper
from .refusing_store import RefusingStore
from .world import BACKEND, FRONTEND, MEDIATOR, Service, World

STUCK_S = 60.0
SECOND = 5  # another mediator's domain


@pytest.fixture
def keeper(world: World) -> Iterator[Keeper]:
    """A keeper in the backend's domain."""
    with Keeper(world) as keeper:
        yield keeper


def ctl(world: World, verb: str, *arguments: str) -> Done:
    """`shadowvq ctl` in this process."""
    return ask("ctl", verb, f"--sim={world.sim}", *arguments)


def halves(world: World) -> list[str]:
    """The directories of mediator and backend that belong to a device."""
    return sorted(path for path in world.device_nodes() if re.search(r"/(virtio|svq)/(\d+/)?\d+$", path))


def swept(world: World, device: int) -> int:
    """What dom0 has counted."""
    return int(world.store.read(f"/local/domain/{FRONTEND}/shadowvq/{device}/swept") or 0)


def test_a_new_mediator_takes_back_before_it_says_anything(world: World, connect: Connect, keeper: Keeper) -> None:
    """A mediator is killed with a request in flight of which the backend keeps pages, and the next one starts with no
    backend there at all: leg 1 goes straight to Closing, all but the kept pages are taken back, and Closed comes when
    those are free."""
    world.keep_alive(MEDIATOR)
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    request = InFlight(world, frontend, device, PAGES)
    keeper.keep([request.grefs[page] for page in KEPT])
    world.mediator.kill()
    assert keeper.reachable(request.grefs) == request.grefs
    is_not_closed(frontend)

    world.start_mediator()  # the backend's service is stopped
    world.until(lambda: held(world, device) == len(KEPT), "held pages")
    world.until_state(device, "Closing")
    assert heads(world, device) is None
    assert keeper.reachable(request.grefs) == [request.grefs[page] for page in KEPT]
    is_not_closed(frontend)
    (line,) = world.mediator.events("stale_grants_ended")
    assert line["ended"] == PAGES - len(KEPT)

    keeper.let_go()
    frontend.wait_closed()
    assert world.granted(FRONTEND) == 0
    request.abandon()
    world.backend.resume()
    frontend.reconnect()
    write_and_compare(frontend, random.Random(1), 0)


def lose(world: World, connect: Connect, keeper: Keeper) -> tuple[int, Frontend, InFlight]:
    """A device that is Closing with a held page of which the guest's kernel has overwritten the entry."""
    world.keep_alive(MEDIATOR)
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    request = InFlight(world, frontend, device, PAGES)
    keeper.keep(request.grefs[:1])
    world.observer.is_guests_own(FRONTEND, request.grefs[0])
    with world.grant_table(FRONTEND) as table:
        table[request.grefs[0] * 8 : request.grefs[0] * 8 + 8] = (5 << 32 | 4 << 16 | 1).to_bytes(8, "little")
    world.mediator.terminate()
    assert (world.found(device).state, held(world, device)) == ("Closing", 1)
    return device, frontend, request


def test_what_no_entry_accounts_for_stays_held(world: World, connect: Connect, keeper: Keeper) -> None:
    """The guest's kernel overwrites an entry in a window that it did not reserve, while the backend has the page
    mapped, and the mediator ends: the next one finds nothing to sweep, but believes what the last one said."""
    device, frontend, request = lose(world, connect, keeper)
    world.start_mediator()
    for _ in range(10):
        is_not_closed(frontend)
        assert (world.found(device).state, held(world, device)) == ("Closing", 1)
    keeper.let_go()  # which nobody can see
    world.backend.resume()
    is_not_closed(frontend)
    request.abandon()


def test_a_late_detach_leaves_the_next_device_alone(world: World, connect: Connect) -> None:
    """`ctl detach` looks, and is slow; meanwhile the device is detached and another one of the same number attached:
    the late one neither takes back what that has granted nor removes it."""
    device = world.attach(world.image("disk.img"))
    found, record = world.found(device), world.dom0.record(FRONTEND, device)
    assert record is not None
    world.detach(device)
    assert world.attach(world.image("next.img"), device=device) == device
    frontend = connect(device)
    counted = swept(world, device)
    again = world.dom0.record(FRONTEND, device)
    assert again is not None and again != record and again.mark == record.mark
    toolstack._take_back(world.dom0, found, record, deadline=0.0)
    with pytest.raises(ConfigError, match="is mediated again"):
        toolstack._take_back(world.dom0, found, again, deadline=0.0)
    assert (swept(world, device), world.dom0.record(FRONTEND, device)) == (counted, again)
    write_and_compare(frontend, random.Random(1), 0)


def test_a_mediator_that_cannot_sweep_writes_no_state(empty_world: World, connect: Connect) -> None:
    """Where the table of a guest cannot be looked at, no state is written for its device: the reason stands in `error`
    and once in the log; when it can be, the device is served."""
    world = empty_world
    world.start_backend()
    world.start_mediator()
    world.keep_alive(MEDIATOR)
    device = world.attach(world.image("disk.img"))
    world.until_state(device, "InitWait")
    world.mediator.terminate()
    world.machine.set_privilege(MEDIATOR, BACKEND)
    world.start_mediator()
    world.until(lambda: world.found(device).error, "error")
    assert "sweep for domain 3 failed" in (world.found(device).error or "")
    assert not world.happens(lambda: world.found(device).state != "InitWait", SHORT_S)
    assert len(world.mediator.events("device_waits")) == 1
    world.machine.set_privilege(MEDIATOR, PRIVILEGE_ALL)
    world.until(lambda: world.found(device).error is None, "an offer")
    write_and_compare(connect(device), random.Random(1), 0)


def test_attach_to_a_mediator_without_privilege_leaves_nothing(empty_world: World) -> None:
    """A mediator that may do nothing to the guest cannot take its device up: `ctl attach` says why, in one line, and
    takes it away again, and so does a `detach` later on."""
    world = empty_world
    world.start_backend()
    world.start_mediator()
    world.machine.set_privilege(MEDIATOR, BACKEND)
    image = str(world.image("disk.img"))
    where = (f"--frontend={FRONTEND}", f"--mediator={MEDIATOR}", f"--backend={BACKEND}")
    done = ctl(world, "attach", *where, image)
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert "sweep for domain 3 failed" in line
    world.until(lambda: halves(world) == [], "end of what was left")  # the parent directory is the mediator's to remove
    assert ctl(world, "attach", *where, "--no-wait", image).status == 0
    world.until(lambda: world.found(0).error, "error")
    assert ctl(world, "detach", str(FRONTEND), "0").status == 0
    world.until(lambda: halves(world) == [], "end of what was left")  # the parent directory is the mediator's to remove


@pytest.mark.parametrize("privilege", [PRIVILEGE_ALL, BACKEND])
def test_refused_device_can_be_detached(privilege: int, empty_world: World) -> None:
    """A device beyond `limits.devices` is refused with that reason, in one line, and taken away again, whether the
    mediator can look at the guest's grant table or not."""
    world = empty_world
    world.start_backend()
    world.start_mediator("limits: {devices: 1}\n")
    world.attach(world.image("disk.img"))
    before = halves(world)
    world.machine.set_privilege(MEDIATOR, privilege)
    where = (f"--frontend={FRONTEND}", f"--mediator={MEDIATOR}", f"--backend={BACKEND}")
    done = ctl(world, "attach", *where, str(world.image("another.img")))  # the backend too refuses the same one
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert "1 devices are served already" in line
    assert halves(world) == before != []
    world.machine.set_privilege(MEDIATOR, PRIVILEGE_ALL)


def test_two_mediators_of_one_guest(world: World, connect: Connect, loop: Loop) -> None:
    """Two mediators serve one guest at once. One of them is killed in mid-I/O and comes back: what it had granted is
    taken back, by it, and the other's disk goes on without a flaw all the time."""
    world.machine.create_domain(DomainSpec(SECOND, "second", 16, privilege=PRIVILEGE_ALL))
    world.keep_alive(SECOND)
    other = world.start_another_mediator(SECOND)
    steady = loop(connect(world.attach(world.image("one.img")), pages=1024))
    disk = Disk(str(world.image("two.img")))
    device = toolstack.attach(world.dom0, frontend=FRONTEND, mediator=SECOND, backend=BACKEND, disk=disk)
    frontend = connect(device, pages=1024, first_gfn=2048)
    shaky = loop(frontend, 2)
    for number in range(3):
        goes_on(world, shaky, 2)
        other.kill()
        is_not_closed(frontend)
        goes_on(world, steady, 2)
        other = world.start_another_mediator(SECOND)
        frontend.wait_closed()
        shaky.abandon()
        frontend.reconnect()
        shaky = loop(frontend, 3 + number)
        goes_on(world, shaky, 2)
        goes_on(world, steady, 2)
    shaky.stop()
    steady.stop()


def orphan(world: World, connect: Connect, keeper: Keeper) -> tuple[int, Frontend, InFlight]:
    """A device whose mediator's domain was destroyed with a request in flight, two pages of which the backend keeps."""
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    request = InFlight(world, frontend, device, PAGES)
    keeper.keep([request.grefs[page] for page in KEPT])
    world.mediator.kill()
    # A backend that is stopped keeps what the mediator shared with it, so that domain cannot be dead quite yet.
    world.until(lambda: world.machine.state(MEDIATOR) in {"dead", "zombie"}, "end of the mediator's domain")
    assert keeper.reachable(request.grefs) == request.grefs
    is_not_closed(frontend)
    request.abandon()
    return device, frontend, request


def test_dom0_sweeps_for_a_mediator_that_is_gone(world: World, connect: Connect, keeper: Keeper) -> None:
    """`ctl sweep` takes back what a mediator's domain that is gone had granted: status 1 as long as a page is held,
    with who holds it; when none is, the guest is told, and its record stays until the device is detached."""
    device, frontend, request = orphan(world, connect, keeper)
    assert "orphaned" in ctl(world, "list").out
    done = ctl(world, "sweep")
    assert done.status == 1
    assert (
        f"frontend {FRONTEND} (dom{FRONTEND})  device {device}  taken back: {PAGES - 2}  held: domain {BACKEND}"
        in done.out
    )
    assert keeper.reachable(request.grefs) == [request.grefs[page] for page in KEPT]
    is_not_closed(frontend)
    done = ctl(world, "sweep", "--json", str(FRONTEND))
    (found,) = json.loads(done.out)
    assert (done.status, found["held_pages"], found["held_by"], found["freed"]) == (1, len(KEPT), BACKEND, 0)
    assert swept(world, device) == 0
    keeper.let_go()
    assert ctl(world, "sweep", str(FRONTEND)).status == 0
    assert (swept(world, device), world.granted(FRONTEND)) == (1, 0)
    frontend.wait_closed()
    assert world.dom0.record(FRONTEND, device) is not None
    world.backend.resume()
    world.detach(device)
    assert world.dom0.record(FRONTEND, device) is None
    assert swept(world, device) == 2  # what has been counted is never taken back


def test_detach_of_an_orphan_takes_back_first(world: World, connect: Connect, keeper: Keeper) -> None:
    """`ctl detach` of a device whose mediator's domain is gone removes nothing as long as a page of it is held, and
    says who holds it; then it tells the guest, and removes all but the count."""
    device, frontend, request = orphan(world, connect, keeper)
    detach = ("detach", "--timeout=0.1", str(FRONTEND), str(device))
    done = ctl(world, *detach)
    assert done.status == 2 and f"domain {BACKEND} (dom{BACKEND}) still has 2 pages" in done.err
    assert world.dom0.record(FRONTEND, device) is not None
    assert world.store.read(f"{frontend.path}/state") is not None
    is_not_closed(frontend)
    keeper.let_go()
    world.backend.resume()
    assert ctl(world, *detach).status == 0
    assert (swept(world, device), world.granted(FRONTEND)) == (1, 0)
    assert keeper.reachable(request.grefs) == []
    assert world.store.read(f"{frontend.path}/state") is None
    frontend.wait_closed()


def test_sweep_leaves_the_living_alone(world: World, connect: Connect, loop: Loop) -> None:
    """`ctl sweep` touches no device whose mediator may be alive: named on its own it is refused, with which domain it
    is; its I/O goes on."""
    device = world.attach(world.image("disk.img"))
    going = loop(connect(device))
    goes_on(world, going)
    done = ctl(world, "sweep", str(FRONTEND))
    assert (done.status, done.out) == (2, "")
    assert f"device {device}  left alone: domain {MEDIATOR} (dom{MEDIATOR}) mediates it" in done.err
    done = ctl(world, "sweep")
    assert done.status == 0 and "left alone" in done.out
    world.mediator.stop()
    assert ctl(world, "sweep", str(FRONTEND)).status == 2
    world.mediator.resume()
    goes_on(world, going)
    going.stop()
    assert swept(world, device) == 0


def test_attach_takes_back_what_nobody_knows_of(world: World, connect: Connect, keeper: Keeper) -> None:
    """Grants whose device nobody remembers are taken back before a guest gets a device, which may have their mark; and
    as long as a page of them is held, it gets another one."""
    device, _, request = orphan(world, connect, keeper)
    record = world.dom0.record(FRONTEND, device)
    assert record is not None
    world.store.rm(record.path)
    world.store.rm(f"/local/domain/{FRONTEND}/device/virtio/{device}")
    world.backend.resume()
    world.until(lambda: world.machine.state(MEDIATOR) == "dead", "end of the mediator's domain")
    world.add_domain(MEDIATOR)
    world.start_mediator()
    again = world.attach(world.image("disk.img"))
    found = world.dom0.record(FRONTEND, again)
    assert found is not None and found.mark != record.mark
    assert keeper.reachable(request.grefs) == [request.grefs[page] for page in KEPT]
    keeper.let_go()
    third = world.dom0.record(FRONTEND, world.attach(world.image("third.img")))
    assert third is not None and third.mark == record.mark
    assert world.granted(FRONTEND) == 0


def test_a_guest_that_is_being_destroyed_does_not_stop_the_sweep_of_others(
    world: World, connect: Connect, keeper: Keeper
) -> None:
    """`ctl sweep` of all guests passes over one that is gone while its nodes still stand; named, it is an error."""
    orphan(world, connect, keeper)
    world.store.write("/local/domain/2999/shadowvq/0/mediator-id", str(MEDIATOR))
    for name, value in (("backend-id", BACKEND), ("grant-mark", 1)):
        world.store.write(f"/local/domain/2999/shadowvq/0/{name}", str(value))
    assert "taken back" in ctl(world, "sweep").out
    assert "2999" in ctl(world, "sweep", "2999").err
    world.store.rm("/local/domain/2999")
    keeper.let_go()
    world.backend.resume()


def test_readers_that_are_no_more_are_forgotten(world: World) -> None:
    """The domains that may read dom0's directory in a backend's are those that there are: each start of a guest brings
    a mediator domain with another id, and a list of all of them would be too long for XenStore some day."""
    root = f"/local/domain/{BACKEND}/shadowvq"
    device = world.attach(world.image("disk.img"))
    world.store.set_perms(root, [*world.store.get_perms(root), "r2998", "r2999"])
    world.detach(device)
    world.add_domain(SECOND)
    toolstack.attach(
        world.dom0, frontend=FRONTEND, mediator=SECOND, backend=BACKEND, disk=Disk(str(world.image("other.img")))
    )
    assert {"r2998", "r2999"}.isdisjoint(world.store.get_perms(root))
    assert {f"r{MEDIATOR}", f"r{SECOND}"} <= set(world.store.get_perms(root))


class StuckBefore(RefusingStore):
    """Swallows the first write of `held-pages`: whoever sent it waits, until it is killed."""

    def __init__(self, path: Path, target: Path) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        super().__init__(path, target)

    def _is_refused(self, message: Message) -> bool:
        if message.type == Op.WRITE and b"/held-pages" in message.payload:
            self.reached.set()
            self.go_on.wait(STUCK_S)
        return False


def test_what_was_said_of_held_pages_is_never_unsaid_for_a_moment(
    world: World, connect: Connect, keeper: Keeper
) -> None:
    """A mediator that starts says again what the last one said of pages that no entry accounts for, and is killed while
    it does so: the next one still knows."""
    device, frontend, request = lose(world, connect, keeper)
    folder, *sockets = world.before_xenstore(MEDIATOR)
    with StuckBefore(*sockets) as store:
        arguments = ["xen_shadowvq", "mediator", "--sim", str(folder), "--domid", str(MEDIATOR)]
        second = Service("mediator", arguments, world.directory / "second.log")
        world.services.append(second)
        world.until(store.reached.is_set, "write of held-pages")
        second.kill()
        store.go_on.set()
    world.start_mediator()
    is_not_closed(frontend)
    assert (world.found(device).state, held(world, device)) == ("Closing", 1)
    keeper.let_go()
    world.backend.resume()
    request.abandon()


def test_pages_that_no_entry_accounts_for_are_not_forgotten_by_detach(
    world: World, connect: Connect, keeper: Keeper
) -> None:
    """A mediator that may do nothing to the guest lets a device be taken away, but not one of which pages are held that
    nobody but its predecessor knew of."""
    device, frontend, request = lose(world, connect, keeper)
    world.machine.set_privilege(MEDIATOR, BACKEND)
    world.start_mediator()
    world.until(lambda: world.found(device).error, "error")
    world.backend.resume()
    done = ctl(world, "detach", "--timeout=0.5", str(FRONTEND), str(device))
    assert done.status == 2 and "still has 1 page" in done.err
    assert swept(world, device) == 0
    is_not_closed(frontend)
    request.abandon()
    keeper.let_go()
