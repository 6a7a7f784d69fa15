# SPDX-License-Identifier: GPL-2.0-or-later
"""Measuring: all disks attached at once, every job done on each of them in turn, and again in the next round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.harness import Domain, Machine
from tests.harness.errors import CommandFailed
from tests.xen.bench import figures, lab
from tests.xen.bench.figures import Counts
from tests.xen.bench.jobs import COUNTED_JOB, DISK_MIB, JOBS, Disk, Measured, run
from tests.xen.bench.lab import Lab
from tests.xen.bench.plain import Run, SharedDevice
from tests.xen.bench.ways import BLKBACK, PLACEMENTS, SWIOTLB

GRANTS_PER_FRAME = 512
PAGES_PER_MIB = 256
SHARED_DEVICE = 100  # far from the numbers that `ctl attach` gives
BLKBACKS = {BLKBACK: "xvdc", "xen-blkback": "xvdd"}  # what the guest calls them
Look = Callable[[], Mapping[str, Any]]
Note = Callable[[str], None]


@dataclass
class Disks:
    """Every way's disk, and how to look at its counters."""

    places: dict[str, Disk] = field(default_factory=dict)
    counters: dict[str, Look] = field(default_factory=dict)
    mediated: list[int] = field(default_factory=list)
    """The numbers of those that go through the mediator."""


def attach_all(running: Lab, wanted: Iterable[str], note: Note) -> Disks:
    """Gives the guests a disk for each way that is wanted."""
    disks = Disks()
    for name in wanted:
        note(f"a disk: {name}")
        disks.places[name], disks.counters[name] = _attach(running, name, disks.mediated)
    return disks


def _attach(running: Lab, way: str, mediated: list[int]) -> tuple[Disk, Look]:
    if way in BLKBACKS:
        name = lab.attach_blkback(running, BLKBACKS[way], persistent=way == BLKBACK)
        return Disk(running.guest, name), lambda: lab.blkback_notifications(running)
    if way in PLACEMENTS:
        number, name = lab.attach_mediated(running, PLACEMENTS[way])
        mediated.append(number)
        return Disk(running.guest, name), lambda: running.services.status(number)
    guest = running.guest
    if way == SWIOTLB:
        guest = running.bouncing
        _check_bouncing(guest)
    device = SharedDevice(running.machine, guest, running.backend, SHARED_DEVICE)
    return Disk(guest, device.start(_all_memory())), device.counters


def _check_bouncing(guest: Domain) -> None:
    """CommandFailed: the guest has no area that it bounces everything through."""
    swiotlb = "/sys/kernel/debug/swiotlb/io_tlb_nslabs"
    said = guest.run(f"[ -e {swiotlb} ] || mount -t debugfs none /sys/kernel/debug; cat {swiotlb} /proc/cmdline").stdout
    slabs, _, line = said.partition("\n")
    if int(slabs) == 0 or "swiotlb=force" not in line:
        raise CommandFailed(f"the guest does not bounce what a device is to see: {slabs} slots, started with {line}")


def _all_memory() -> Run:
    """
    All of a guest's frames, under references at the top of its table: far above both its own and the mediator's
    window, which its module reserves from below.
    """
    pages = lab.GUEST_MIB * PAGES_PER_MIB
    return Run(0, pages, lab.GUEST_GRANT_FRAMES * GRANTS_PER_FRAME - pages)


def measure(disks: Disks, job: str, order: int) -> dict[str, Measured]:
    """One job on every disk in turn. Each `order` begins with another way, so that none is always the first."""
    if not disks.places:
        return {}
    ways = list(disks.places)
    begin = order % len(ways)
    return run(JOBS[job], {way: disks.places[way] for way in ways[begin:] + ways[:begin]})


def count(disks: Disks, step: Callable[[str], None]) -> dict[str, Counts]:
    """What a request of COUNTED_JOB costs each way, of what can be counted."""
    found: dict[str, Counts] = {}
    for way, disk in disks.places.items():
        step(f"counting: {way}")
        before = disks.counters[way]()
        requests = run(JOBS[COUNTED_JOB], {way: disk})[way].requests
        after = disks.counters[way]()
        if way in PLACEMENTS:
            found[way] = figures.per_request_of_mediated(before, after)
        else:
            found[way] = figures.per_request(before, after, requests)
    return found


def facts(machine: Machine, running: Lab) -> dict[str, str]:
    """What was measured on: words that the machine says of itself."""
    xen = machine.run("xl info | sed -n 's/^xen_version *: *//p'").stdout.strip()
    kernel, fio = running.guest.run("uname -r; fio --version").stdout.split()
    disk = f"null_blk, memory_backed, in the backend's domain; {DISK_MIB} MiB of it written beforehand"
    return {"hypervisor": f"Xen {xen}", "kernel": kernel, "fio": fio, "disk": disk}
