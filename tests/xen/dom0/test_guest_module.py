# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest's module gives back to its driver, and when: beside a mediator that only writes to XenStore."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.harness import Domain
from tests.harness.scripts import until
from tests.xen import report
from tests.xen.scripted_mediator import MEDIATOR, ScriptedMediator
from tests.xen.topology import Topology
from xenstore_schema import State, nodes

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

DEVICE, OTHER, THIRD = 40, 41, 42
PARAMETERS = "/sys/module/virtio_xenbus/parameters"
HELD = "until it lets go, or its domain is destroyed in dom0, {requests} of the driver cannot end"
GONE = "until dom0 has run `shadowvq ctl sweep`,"
OVER = "nothing of the device can be reached any more"

Make = Callable[..., ScriptedMediator]


@pytest.fixture
def guest(together: Topology) -> Domain:
    """The first guest, with the module and without words in its kernel log."""
    together.load_module()
    together.frontend.run("rm -f /run/read-*; dmesg -C")
    return together.frontend


@pytest.fixture
def make(together: Topology, guest: Domain) -> Iterator[Make]:
    """Makes devices with a mediator that only speaks; in the end all that they left in the guest goes."""
    made: list[ScriptedMediator] = []

    def scripted(device: int, domid: int = MEDIATOR) -> ScriptedMediator:
        made.append(ScriptedMediator(together.machine, guest, device, domid))
        return made[-1]

    yield scripted
    if together.frontend is guest:
        for mediator in made:
            mediator.end()


def read_in_flight(guest: Domain, disk: str, count: int) -> None:
    """Has so many readers read a page each, one after the other: their requests have the heads 0, 1, 2, ..."""
    for number in range(count):
        dd = f"dd if=/dev/{disk} of=/dev/null bs=4k count=1 skip={number} iflag=direct"
        in_flight = until(f"read reads writes </sys/block/{disk}/inflight; [ $reads = {number + 1} ]")
        guest.run(f"({dd} >/dev/null 2>&1; echo $? >/run/read-{number}) >/dev/null 2>&1 & {in_flight}")


def failed(guest: Domain, *numbers: int) -> None:
    """Waits until these readers, at the least, were told of an error."""
    for number in numbers:
        guest.run(f'{until(f"[ -s /run/read-{number} ]")}; [ "$(cat /run/read-{number})" != 0 ]', deadline_s=90)


def ended(guest: Domain) -> set[int]:
    """The readers whose requests have ended, well or not."""
    names = guest.run("cd /run; ls -d read-* 2>/dev/null || true").stdout.split()
    return {int(name.removeprefix("read-")) for name in names}


def said(guest: Domain, words: str) -> int:
    """How many lines of the module in the kernel log have these words."""
    return int(guest.run(f"dmesg | grep virtio_xenbus | grep -cF '{words}' || true").stdout)


def until_said(guest: Domain, words: str, times: int = 1) -> None:
    """Waits for lines in the kernel log."""
    guest.run(until(f"[ $(dmesg | grep virtio_xenbus | grep -cF '{words}') -ge {times} ]"), deadline_s=90)


def test_only_requests_whose_pages_are_held_stay_in_flight(guest: Domain, make: Make) -> None:
    """Closing with held pages: what the mediator names stays in flight and the log says so once for each change; every
    other request fails. As the mediator names fewer, more end; Closed ends them all, and the device connects again."""
    mediator = make(DEVICE)
    mediator.connect()
    read_in_flight(guest, mediator.grow(), 4)
    mediator.say(State.Closing)
    mediator.hold(3, {1, 2})
    failed(guest, 0, 3)
    until_said(guest, "keeps 3 pages mapped that it must not use any more; " + HELD.format(requests="2 requests"))
    mediator.hold(3, {1, 2})
    mediator.hold(1, {2})
    failed(guest, 1)
    until_said(guest, "keeps 1 page mapped that it must not use any more; " + HELD.format(requests="1 request"))
    assert ended(guest) == {0, 1, 3}
    assert said(guest, "must not use any more") == 2

    mediator.hold(0, set())
    assert ended(guest) == {0, 1, 3}
    mediator.say(State.Closed)
    failed(guest, 2)
    until_said(guest, OVER)
    mediator.wait_front(State.Initialising)
    mediator.connect()


def test_nothing_ends_while_it_is_not_known_what_is_held(guest: Domain, make: Make) -> None:
    """Held pages, and no word or a senseless one on whose they are, as from a mediator that started anew: every request
    stays."""
    mediator = make(DEVICE)
    mediator.connect()
    read_in_flight(guest, mediator.grow(), 2)
    mediator.say(State.Closing)
    mediator.hold(1, None)
    until_said(guest, "keeps 1 page mapped that it must not use any more; " + HELD.format(requests="2 requests"))
    mediator.hold(2, set())  # bits, but nobody's
    until_said(guest, "keeps 2 pages mapped that it must not use any more; " + HELD.format(requests="2 requests"))
    mediator.write_held("nonsense")
    mediator.hold(3, None)
    until_said(guest, "keeps 3 pages mapped that it must not use any more; " + HELD.format(requests="2 requests"))
    assert ended(guest) == set()
    mediator.say(State.Closed)
    failed(guest, 0, 1)


def test_a_mediator_that_is_late_or_starts_anew_proves_nothing(guest: Domain, make: Make) -> None:
    """The mediator closes and takes longer than it published: the log says that once, and no request ends by that."""
    mediator = make(DEVICE)
    mediator.connect()
    read_in_flight(guest, mediator.grow(), 1)
    mediator.say(State.Closing)
    until_said(guest, "has not closed the device within 1000 ms; until it has, 1 request of the driver cannot end")
    mediator.say(State.Initialising)
    guest.run("sleep 3")
    assert (ended(guest), said(guest, "has not closed the device within")) == (set(), 1)
    mediator.say(State.Closed)
    failed(guest, 0)


def test_requests_of_a_mediator_that_is_gone_stay_until_dom0_has_swept(guest: Domain, make: Make) -> None:
    """The mediator's directory vanishes: nothing ends, the log says what dom0 has to do; when `swept` grows all end."""
    mediator = make(DEVICE)
    mediator.sweep(5)
    mediator.connect()
    read_in_flight(guest, mediator.grow(), 2)
    mediator.remove(mediator.path)
    until_said(guest, GONE)
    mediator.sweep(0)
    guest.run("sleep 3")
    assert (ended(guest), said(guest, GONE)) == (set(), 1)
    mediator.sweep()
    failed(guest, 0, 1)
    until_said(guest, OVER)


def test_rings_of_a_driver_that_leaves_are_kept(guest: Domain, make: Make) -> None:
    """The mediator is gone with nothing in flight, and the disk's driver is taken out: it is not held up, but the rings
    are kept and the module stays, until dom0 has swept."""
    mediator = make(DEVICE)
    mediator.connect()
    mediator.remove(mediator.path)
    until_said(guest, GONE)
    guest.run("rmmod virtio_blk", deadline_s=90)
    assert said(guest, "the rings of 1 queue may still be in use: they are kept") == 1
    guest.run("modprobe virtio_blk; ! rmmod virtio_xenbus 2>/dev/null")
    mediator.sweep()
    until_said(guest, OVER)


def test_directories_are_removed_and_made_anew(together: Topology, guest: Domain, make: Make) -> None:
    """Both directories are removed with a request in flight: it stays; meanwhile another disk comes and goes in the
    guest, so that nobody waits in XenBus. Made anew, and offering a device again, the directories prove nothing either;
    `swept` does, and then the device connects."""
    mediator = make(DEVICE)
    mediator.connect()
    read_in_flight(guest, mediator.grow(), 1)
    mediator.remove(mediator.path, mediator.front)
    until_said(guest, GONE)

    image = f"{report.IMAGES}/beside.img"
    together.machine.run(f"dd if=/dev/urandom of={image} bs=64k count=1")
    device = together.attach(image)
    disk = f"/sys/devices/virtio_xenbus/virtio-{device}/virtio*/block"
    guest.run(f"{until(f'ls {disk}')}; dd if=/dev/$(ls {disk}) of=/dev/null bs=64k iflag=direct", deadline_s=90)
    together.detach(device)
    guest.run(until(f"[ ! -e /sys/devices/virtio_xenbus/virtio-{device} ]"), deadline_s=90)

    mediator.make()
    mediator.offer()
    guest.run("sleep 3")
    assert ended(guest) == set()
    mediator.sweep()
    failed(guest, 0)
    mediator.connect()


def test_unbound_with_requests_held(guest: Domain, make: Make) -> None:
    """The transport's driver is unbound while a request is held: that returns, and the module cannot be unloaded. Bound
    again it goes on where it stood; when the mediator is Closed all ends, and the device is there anew."""
    mediator = make(DEVICE)
    mediator.connect()
    read_in_flight(guest, mediator.grow(), 1)
    mediator.say(State.Closing)
    mediator.hold(1, {0})
    until_said(guest, "keeps 1 page mapped")
    driver = "/sys/bus/xen/drivers/virtio_xenbus"
    guest.run(
        f"echo 1 >{PARAMETERS}/peer_timeout_s; echo virtio-{DEVICE} >{driver}/unbind; ! rmmod virtio_xenbus",
        deadline_s=90,
    )
    guest.run(f"echo virtio-{DEVICE} >{driver}/bind; echo 30 >{PARAMETERS}/peer_timeout_s")
    assert ended(guest) == set()
    mediator.hold(0, set())
    mediator.say(State.Closed)
    failed(guest, 0)
    mediator.connect()


def test_reserved_references_are_published_and_shared(guest: Domain, together: Topology, make: Make) -> None:
    """A device that wants more grant references than there are gets a run of as many as a halving finds, published with
    its rings. A device of the same mediator gets the same run, one of another mediator a run of its own, one that wants
    none gets none. When the module goes, the kernel has them back."""
    nodes_of_run = nodes.VirtioFront.GRANT_REFS_FIRST, nodes.VirtioFront.GRANT_REFS_COUNT

    def run(mediator: ScriptedMediator) -> list[int | None]:
        return [mediator.front_node(node) for node in nodes_of_run]

    counts = []
    for _ in range(2):
        mediator, same, other = devices = make(DEVICE), make(OTHER), make(THIRD, MEDIATOR + 1)
        mediator.connect(refs_wanted=1 << 20)
        same.connect(refs_wanted=600)
        other.connect(refs_wanted=600)
        assert run(same) == run(mediator)
        (first, count), (others_first, others_count) = run(mediator), run(other)
        assert first and count and others_first and others_count == 600
        assert others_first + others_count <= first or first + count <= others_first
        counts.append(count)
        same.say(State.Closed)
        same.wait_front(State.Initialising)
        same.connect()
        assert run(same) == [None, None]
        for device in devices:
            device.end()
        together.unload_module()
        together.load_module()
    assert 600 < counts[0] < guest.spec.max_grant_frames * 512  # others have some, in the middle of it
    assert counts[1] == counts[0]


@pytest.mark.parametrize("sectors", [0, 2048], ids=["held", "probing"])
def test_reboot_is_not_held_up(together: Topology, guest: Domain, make: Make, sectors: int) -> None:
    """A guest with a request that never ends reboots: one whose pages are held, or the first one of a disk's driver,
    for whose probe the kernel waits."""
    mediator = make(DEVICE)
    mediator.connect(sectors=sectors)
    if sectors == 0:
        read_in_flight(guest, mediator.grow(), 1)
        mediator.say(State.Closing)
        mediator.hold(1, {0})
        until_said(guest, "keeps 1 page mapped")
    else:
        guest.run(until("read reads writes </sys/block/vda/inflight; [ $reads = 1 ]"))
    guest.run("(sleep 1; busybox reboot -n -f) >/dev/null 2>&1 &")
    together.wait_rebooted(guest)
    mediator.remove(mediator.path, mediator.front, mediator.record)
