# SPDX-License-Identifier: GPL-2.0-or-later
"""What XenStore lets a domain have: how many disks that is, as the operators' page says, and what is said then."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from domU_frontend.frontend import Frontend
from xen_shadowvq.config import Config
from xen_shadowvq.embedded.xs_limits import Limits

from .command import REPOSITORY, Done, ask
from .world import BACKEND, FRONTEND, MEDIATOR, OTHER, World

pytestmark = pytest.mark.timeout(600)

PAGES = 128
FEW = 200
OWN = 60  # nodes of a domain's own, at most: libxl's, and those of the ways to the devices
SMALL_RINGS = "defaults: {window: dynamic, bounce_pages: 16}\nlimits: {devices: 1000}\n"
NO_MORE_NODES = "XenStore allows domain {} no more nodes (XenStore refused"
NO_MORE_WATCHES = "XenStore allows domain {} no more watches (XenStore refused"


class Disks:
    """Disks of one guest, each connected by a driver of its own."""

    def __init__(self, world: World, stack: ExitStack, queues: int = 1) -> None:
        self.world, self._stack, self._queues = world, stack, queues
        self._image = str(world.image("disk.img", 1))
        self.connected: list[int] = []

    def attach(self, *options: str, mediator: int = MEDIATOR) -> Done:
        """`shadowvq ctl attach`, to its end."""
        where = [f"--sim={self.world.sim}", f"--frontend={FRONTEND}", f"--mediator={mediator}", f"--backend={BACKEND}"]
        return ask("ctl", "attach", *where, "--read-only", f"--queues={self._queues}", *options, self._image)

    def add(self) -> Done:
        """Attaches one more disk, and connects its driver if that worked."""
        done = self.attach()
        if done.status == 0:
            device = int(re.findall(r"now has device (\d+)", done.out)[0])
            place = {"pages": PAGES, "first_gfn": len(self.connected) * PAGES, "queue_size": 16}
            one = Frontend(device, sim=(self.world.sim, FRONTEND), queues=self._queues, **place)
            self._stack.enter_context(one).connect()
            self.connected.append(device)
        return done

    def fill(self, domid: int, nodes_max: int) -> Done:
        """
        Adds disks until no more fit; then tries another one while the domain owns as many nodes as it may, to the last.
        """
        while self.add().status == 0:
            pass
        others = f"/local/domain/{domid}/data/others"
        for number in range(nodes_max - self.world.owned(domid) - 1):
            self.world.store.write(f"{others}/{number}", "")
        assert self.world.owned(domid) in (nodes_max - 1, nodes_max)
        done = self.attach()
        self.world.store.rm(others)
        return done


@pytest.fixture
def roomy() -> Iterator[World]:
    """Mediator, backend and a guest with memory for many drivers. XenStore's quotas are its own, except that each
    driver has a connection to it, where a guest's kernel would have one for all."""
    with World(Limits(connections_max=1000)) as world:
        for domid, memory_mib in ((MEDIATOR, 16), (BACKEND, 16), (FRONTEND, 64), (OTHER, 16)):
            world.add_domain(domid, memory_mib)
        world.start_backend()
        world.start_mediator(SMALL_RINGS)
        yield world


def documented(domain: str) -> tuple[int, int]:
    """Nodes for each disk, and besides for each of its queues, as the operators' page has it."""
    page = (REPOSITORY / "docs" / "xen-host.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| the {domain}'s \| (\d+)(?: \+ (\d+) for each queue)? \|", page, re.MULTILINE)
    assert found, f"no line for the {domain}'s domain"
    return int(found[1]), int(found[2] or 0)


@pytest.mark.parametrize("queues", [1, 4])
def test_the_formula_is_the_documented_one(queues: int, roomy: World) -> None:
    """A disk that is connected, and was asked after, takes as many nodes as the page says, of each domain, and no watch
    of the mediator or the backend."""
    domains = {"mediator": MEDIATOR, "backend": BACKEND, "guest": FRONTEND}
    with ExitStack() as stack:
        disks = Disks(roomy, stack, queues)
        counts = []
        for number in range(2):
            assert disks.add().status == 0
            roomy.status(number)
            owned = {name: roomy.owned(domid) for name, domid in domains.items()}
            counts.append((owned, [roomy.machine.watches_of(domid) for domid in (MEDIATOR, BACKEND)]))
        (before, watches_before), (after, watches_after) = counts
        assert watches_after == watches_before
        for name in domains:
            base, per_queue = documented(name)
            # of the guest's the page has those that the kernel's module writes, which are three more
            extra = 3 if name == "guest" else 0
            assert after[name] - before[name] + extra == base + per_queue * queues, name


def test_as_many_disks_as_the_page_says() -> None:
    """The default of limits.devices, and what the configuration says of it, is what XenStore has room for with one
    queue each, in a mediator's domain and in a backend's that have nodes of their own as well."""
    room = Limits().nodes_max - OWN
    base, per_queue = documented("mediator")
    devices = Config().limits.devices
    assert devices * (base + per_queue) <= room < (devices + 10) * (base + per_queue)
    assert devices * documented("backend")[0] <= room
    text = (REPOSITORY / "deploy" / "shadowvq.yaml").read_text(encoding="utf-8")
    assert f"{base} nodes for each disk and {per_queue} for each of its queues" in text


def test_the_disk_for_which_a_mediator_has_no_room(roomy: World) -> None:
    """As many disks connect as the formula promises for a mediator's domain. One more ends with that very reason, also
    where there is no room for a single node, and leaves nothing; the others go on; and in the place of one that is
    detached there is room for another."""
    base, per_queue = documented("mediator")
    fit = (Limits().nodes_max - roomy.owned(MEDIATOR)) // (base + per_queue)
    with ExitStack() as stack:
        disks = Disks(roomy, stack)
        failed = disks.fill(MEDIATOR, Limits().nodes_max)
        check_refusal(roomy, disks, failed, NO_MORE_NODES.format(MEDIATOR))
        assert len(disks.connected) in (fit - 1, fit)  # the ways to the first one take some
        assert len(disks.connected) >= Config().limits.devices


def test_the_disk_for_which_a_backend_has_no_room() -> None:
    """The same for a backend's domain, in a XenStore that lets it have less than the mediator needs."""
    base, _ = documented("backend")
    with World(Limits(nodes_max=FEW, connections_max=1000)) as world, ExitStack() as stack:
        for domid, memory_mib in ((MEDIATOR, 16), (BACKEND, 16), (FRONTEND, 64)):
            world.add_domain(domid, memory_mib)
        taken = [f"/local/domain/{BACKEND}/data/{number}" for number in range(FEW - world.owned(BACKEND) - 5 * base)]
        for path in taken:  # other things of that domain
            world.store.write(path, "")
        world.start_backend()
        world.start_mediator(SMALL_RINGS)
        disks = Disks(world, stack)
        failed = disks.fill(BACKEND, FEW)
        check_refusal(world, disks, failed, NO_MORE_NODES.format(BACKEND))
        assert len(disks.connected) in (4, 5)


def check_refusal(world: World, disks: Disks, failed: Done, reason: str) -> None:
    """Its command ends with one line that has reason and remedy, nothing is left of it, and all others go on."""
    assert (failed.status, failed.out) == (2, "")
    (line,) = failed.err.splitlines()
    assert reason in line and "--entry-nb" in line
    before = disks.attach("--no-wait")
    assert before.status == 0
    waiting = int(re.findall(r"now has device (\d+)", before.out)[0])
    assert waiting == len(disks.connected)  # and so that which came to nothing was gone
    world.until(lambda: world.found(waiting).error, "its reason")
    assert reason in (world.found(waiting).error or "")
    world.detach(waiting)
    assert all(world.found(device).state == "Connected" for device in disks.connected)
    assert all(world.found(device).error is None for device in disks.connected)
    gone = disks.connected[0]
    world.detach(gone)
    assert disks.attach().status == 0
    world.detach(gone)


def test_a_domain_without_room_for_any_watch_more() -> None:
    """A backend that may watch no further mediator refuses its disks and says why; those of the other mediator work."""
    with World(Limits(watches_max=2)) as world, ExitStack() as stack:
        for domid, memory_mib in ((MEDIATOR, 16), (BACKEND, 16), (FRONTEND, 64), (OTHER, 16)):
            world.add_domain(domid, memory_mib)
        world.start_backend()
        disks = Disks(world, stack)
        assert disks.attach("--no-wait").status == 0
        world.until(lambda: world.found(0).backend_state == "InitWait", "offer to the first mediator")
        failed = disks.attach(mediator=OTHER)
        assert failed.status == 2 and NO_MORE_WATCHES.format(BACKEND) in failed.err and "--watch-nb" in failed.err
        assert world.found(0).backend_state == "InitWait"


def test_a_mediator_without_room_for_any_watch_more() -> None:
    """The same for a mediator, which needs one watch for its guest and one for its backend."""
    with World(Limits(watches_max=2)) as world, ExitStack() as stack:
        for domid, memory_mib in ((MEDIATOR, 16), (BACKEND, 16), (FRONTEND, 64)):
            world.add_domain(domid, memory_mib)
        world.start_backend()
        world.start_mediator()
        failed = Disks(world, stack).attach()
        assert failed.status == 2 and NO_MORE_WATCHES.format(MEDIATOR) in failed.err
        assert world.store.ls(f"/local/domain/{FRONTEND}/device/virtio") == []
