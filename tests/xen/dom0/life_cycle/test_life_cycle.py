# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks, module and guests come and go beside another guest at work; everything is counted before and after."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness import Domain
from tests.harness.scripts import until
from tests.xen import report
from tests.xen.dom0.conftest import QUEUES, Neighbour
from tests.xen.remote import Remote
from tests.xen.topology import PAYLOAD, Topology
from tests.xen.writer import DISK_IS_THERE, WRITER_FAILED, WRITTEN_ONCE, write_without_end

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

ROUNDS = 8
IMAGE = f"{report.IMAGES}/cycle.img"
READ_SOME = "dd if=/dev/vda of=/dev/null bs=64k count=4 iflag=direct"


@pytest.fixture(autouse=True)
def image(together: Topology) -> None:
    """An empty image, and the transport's module in the first guest."""
    together.machine.run(f"rm -f {IMAGE}; truncate -s 8M {IMAGE}")
    together.load_module()


@pytest.fixture(scope="module")
def auditor(together: Topology) -> Remote:
    """Looks into grant tables, from dom0."""
    return Remote(together.machine, "auditor")


def held(topology: Topology, neighbour: Neighbour) -> dict[str, Any]:
    """Everything that a device could leave behind: descriptors, event channels of all domains, XenStore nodes, and
    what the mediator itself says it holds of Xen."""
    domids = " ".join(str(guest.domid) for guest in topology.frontends)
    status = topology.status(neighbour.device, frontend=neighbour.guest)  # first: to ask makes nodes
    counts = topology.machine.run(
        "for unit in mediator backend; do ls /proc/$(systemctl show -P MainPID shadowvq-$unit)/fd | wc -l; done; "
        f"xenstore-ls -f / | wc -l; for domid in 0 {domids}; do lsevtchn $domid | wc -l; done"
    ).stdout.split()
    mediator, backend, nodes, *channels = map(int, counts)
    return {"mediator_fds": mediator, "backend_fds": backend, "nodes": nodes, "event_channels": channels} | {
        f"mediator_{name}_live": status[f"mediator_{name}_live"] for name in ("grant_tables", "shared_pages", "ports")
    }


def connections(topology: Topology, guest: Domain, device: int) -> int:
    """How many times a device was connected since this device id was last given out, by the mediator's log."""
    lines = topology.machine.run("journalctl -u shadowvq-mediator -o cat --no-pager").stdout.splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    names = [event["event"] for event in events if (event.get("domid"), event.get("device")) == (guest.domid, device)]
    since = len(names) - names[::-1].index("device_removed") if "device_removed" in names else 0
    return names[since:].count("device_connected")


def test_two_queues_of_the_stock_driver(together: Topology, neighbour: Neighbour) -> None:
    """A disk with two queues in a guest with two processors: the block layer sends requests through both."""
    guest = neighbour.guest
    assert guest.run("ls /sys/block/vda/mq").stdout.split() == [str(queue) for queue in range(QUEUES)]

    def interrupts() -> list[int]:
        lines = guest.run(f"grep virtio-{neighbour.device}-q /proc/interrupts").stdout.splitlines()
        return [sum(int(word) for word in line.split(":")[1].split() if word.isdecimal()) for line in lines]

    before = interrupts()
    neighbour.goes_on()
    assert len(before) == QUEUES
    assert all(now > then for now, then in zip(interrupts(), before, strict=True))


def test_attached_and_detached_again_and_again(together: Topology, neighbour: Neighbour, auditor: Remote) -> None:
    """Eight times a disk comes and goes in a guest: nothing of it is left, in the guest, in dom0 or in Xen. (Pages of
    the guest that stay mapped would show in the end: it could not be destroyed.)"""
    guest = together.frontend
    before: dict[str, Any] = {}
    for turn in range(ROUNDS + 1):
        device = together.attach(IMAGE)
        guest.run(f"{DISK_IS_THERE}; {READ_SOME}", deadline_s=90)
        window = together.window() if turn == ROUNDS else (0, 0)
        together.detach(device)
        guest.run(until("[ ! -e /dev/vda ]"), deadline_s=90)
        if turn == 0:  # what is kept once, for all devices, is there now
            before = held(together, neighbour)
    assert held(together, neighbour) == before
    assert auditor.call("entries_in_use", domid=guest.domid, first=window[0], count=window[1]) == 0
    neighbour.goes_on()


def test_detached_under_io_and_attached_with_copies(together: Topology, neighbour: Neighbour, auditor: Remote) -> None:
    """A disk that is detached while it is written to: the writer gets errors and nothing hangs, and no entry of the
    guest's table is in use; attached again with placement `copy` it works, and no byte of it is granted."""
    guest = together.frontend
    device = together.attach(IMAGE)
    write_without_end(guest)
    first, count = together.window()
    together.detach(device)
    guest.run(WRITER_FAILED, deadline_s=90)
    assert auditor.call("entries_in_use", domid=guest.domid, first=first, count=count) == 0

    device = together.attach(IMAGE, placement="copy")
    sums = guest.run(
        f"{DISK_IS_THERE}; dd if=/run/data of=/dev/vda bs=64k oflag=direct; md5sum < /run/data; "
        "dd if=/dev/vda bs=64k count=32 iflag=direct | md5sum",
        deadline_s=90,
    ).stdout.split("\n")
    assert sums[0] == sums[1]
    counters = together.status(device)
    assert (counters["grants"], counters["bytes_zero_copy"]) == (0, 0)
    assert counters["bytes_bounced"] >= 2 * 32 * 65536
    together.detach(device)
    neighbour.goes_on()


def test_module_is_unloaded_and_loaded_again_under_io(together: Topology, neighbour: Neighbour) -> None:
    """The transport's module can be taken out while the disk is written to (the writer gets errors, nothing hangs),
    and put back: the same disk is there again."""
    guest = together.frontend
    device = together.attach(IMAGE)
    write_without_end(guest)
    together.unload_module()
    guest.run(WRITER_FAILED, deadline_s=90)
    together.load_module()
    guest.run(f"{DISK_IS_THERE}; {READ_SOME}", deadline_s=90)
    together.detach(device)
    neighbour.goes_on()


def test_disk_of_a_guest_that_is_suspended(together: Topology, neighbour: Neighbour) -> None:
    """The guest suspends its devices under I/O: the disk's rings are taken back, then given out again, and the writer
    goes on."""
    guest = together.frontend
    device = together.attach(IMAGE)
    write_without_end(guest)
    guest.run("echo devices >/sys/power/pm_test && echo freeze >/sys/power/state", deadline_s=120)
    assert connections(together, guest, device) == 2
    before = together.status(device)["completions"]
    guest.run("[ ! -e /run/failed ]; sleep 1")
    assert together.status(device)["completions"] > before
    together.detach(device)
    guest.run(WRITER_FAILED, deadline_s=90)
    neighbour.goes_on()


def test_grown_disk_is_announced(together: Topology) -> None:
    """The image grows and `ctl resize` is called: the stock driver sees the new size, and writes to the new end."""
    guest = together.frontend
    device = together.attach(IMAGE)
    guest.run(DISK_IS_THERE)
    together.machine.run(f"truncate -s 16M {IMAGE}")
    together.operator.run("ctl", "resize", "--timeout", "60", str(guest.domid), str(device))
    guest.run(until(f"[ $(cat /sys/block/vda/size) = {16 << 20 >> 9} ]"), deadline_s=90)
    last = "bs=64k count=1 skip=255"
    sums = guest.run(
        "dd if=/dev/urandom of=/run/end bs=64k count=1; dd if=/run/end of=/dev/vda bs=64k seek=255 oflag=direct; "
        "md5sum </run/end"
    ).stdout
    assert together.machine.run(f"dd if={IMAGE} {last} | md5sum").stdout == sums
    together.detach(device)


def test_ring_is_reset_under_io(together: Topology) -> None:
    """A driver of the guest that resizes its queue with a request in it: the reset gives the request back or finds it
    done, and the ring that follows reads the same bytes, ten times. (virtio_blk never resets a ring.)"""
    guest = together.frontend
    together.machine.run(f"dd if=/dev/urandom of={IMAGE} bs=64k count=1 conv=notrunc")
    guest.run(f"rmmod virtio_blk; insmod {PAYLOAD}/svq_ring_reset.ko")
    device = together.attach(IMAGE)
    parameters = "/sys/module/svq_ring_reset/parameters"
    guest.run(until(f"[ $(cat {parameters}/resets) = 10 ]"), deadline_s=120)
    guest.run(until("ls -d /sys/bus/virtio/drivers/svq_ring_reset/virtio*"), deadline_s=90)
    assert int(guest.run(f"cat {parameters}/recycled").stdout) <= 10
    together.detach(device)
    guest.run("rmmod svq_ring_reset; modprobe virtio_blk")


def test_guest_reboots_under_io(together: Topology, neighbour: Neighbour) -> None:
    """A guest reboots while it writes: the services let go by themselves, no zombie and no node of it is left, and the
    guest as it comes back gets its disk again, with what was written."""
    guest = together.frontend
    together.attach(IMAGE)
    write_without_end(guest)
    data = guest.run(WRITTEN_ONCE + "; md5sum < /run/data", deadline_s=90).stdout
    guest.run("(sleep 1; echo b > /proc/sysrq-trigger) >/dev/null 2>&1 &")
    again = together.wait_rebooted(guest)
    assert set(together.machine.domains.list()) == {"Domain-0", again.name, neighbour.guest.name}
    nodes = f"/local/domain/0/backend/virtio/{guest.domid}"
    together.machine.run(until(f'[ -z "$(xenstore-list {nodes} 2>/dev/null)" ]'), deadline_s=90)
    together.load_module()
    device = together.attach(IMAGE)
    first = "dd if=/dev/vda bs=64k count=32 iflag=direct | md5sum"
    assert again.run(f"{DISK_IS_THERE}; {first}", deadline_s=90).stdout == data
    together.detach(device)
    neighbour.goes_on()


def test_services_are_restarted_under_io(together: Topology, neighbour: Neighbour, auditor: Remote) -> None:
    """The mediator, then the backend, dies by SIGKILL under I/O: systemd starts it again, and the disk goes on. In the
    end nothing is granted any more, by the dead mediator either."""
    guest = together.frontend
    device = together.attach(IMAGE)
    for role in ("mediator", "backend"):
        together.machine.run(f"systemctl kill -s KILL shadowvq-{role}")
        together.machine.run(until(f"systemctl is-active --quiet shadowvq-{role}"), deadline_s=90)
        guest.run(until(READ_SOME), deadline_s=180)
        neighbour.goes_on()
    first, count = together.window()
    together.detach(device)
    assert auditor.call("entries_in_use", domid=guest.domid, first=first, count=count) == 0


def test_destroyed_guest_and_stopped_services(together: Topology, neighbour: Neighbour) -> None:
    """A guest destroyed at work leaves no zombie and no node, and both services, told to, end well."""
    neighbour.goes_on()
    neighbour.guest.destroy()
    assert set(together.machine.domains.list()) == {"Domain-0", together.frontend.name}
    nodes = f"/local/domain/0/backend/virtio/{neighbour.guest.domid}"
    together.machine.run(until(f'[ -z "$(xenstore-list {nodes} 2>/dev/null)" ]'), deadline_s=90)
    for name in ("shadowvq-mediator", "shadowvq-backend"):
        together.machine.run(
            f"systemctl is-active {name} && systemctl stop {name} && ! systemctl is-failed {name}", deadline_s=120
        )
