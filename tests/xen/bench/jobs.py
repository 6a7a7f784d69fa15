# SPDX-License-Identifier: GPL-2.0-or-later
"""The jobs that fio does on each disk, and what is taken from its report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.harness import Domain
from tests.harness.errors import CommandFailed

DISK_MIB = 64  # of each disk, this much is written beforehand and used
FIO_DEADLINE_S = 900.0
REPORT = "/run/bench.json"


@dataclass(frozen=True)
class Job:
    """One job: fio's pattern, its block size in KiB, requests in flight, and how many requests in all."""

    name: str
    pattern: str
    block_kib: int
    depth: int
    requests: int
    more: str = ""

    def section(self, name: str, disk: str) -> str:
        """Its section in a job file, for one disk."""
        return (
            f"[{name}]\nstonewall\nfilename={disk}\nrw={self.pattern}\nbs={self.block_kib}k\n"
            f"iodepth={self.depth}\nnumber_ios={self.requests}\n{self.more}"
        )


JOBS = {
    job.name: job
    for job in (
        Job("randread-4k-qd32", "randread", 4, 32, 1536),
        Job("randwrite-4k-qd32", "randwrite", 4, 32, 1536),
        Job("read-128k-qd32", "read", 128, 32, 256),
        Job("write-128k-qd32", "write", 128, 32, 256),
        Job("randread-4k-qd1", "randread", 4, 1, 512),
        Job("randwrite-4k-qd1", "randwrite", 4, 1, 512),
        Job("read-128k-qd1", "read", 128, 1, 128),
        Job("write-128k-qd1", "write", 128, 1, 128),
        # As a database does it: two reads of a page for each write, and a flush after every sixteenth write.
        Job("database-8k-qd16", "randrw", 8, 16, 1024, "rwmixread=67\nfdatasync=16\n"),
    )
}
COUNTED_JOB = "randread-4k-qd32"  # what the counts per request are of
_GLOBAL = (
    f"[global]\nioengine=libaio\ndirect=1\nthread=1\nrandseed=1\nnorandommap=1\nsize={DISK_MIB}m\n"
    "clocksource=clock_gettime\ngroup_reporting=0\n"
)


@dataclass(frozen=True)
class Measured:
    """One job on one disk, once."""

    requests_per_s: float
    latency_us: float  # mean, from submission to completion
    requests: int


def job_file(job: Job, disks: Mapping[str, str]) -> str:
    """Fio's job file that does one job on each disk in turn."""
    return _GLOBAL + "".join(job.section(way, disk) for way, disk in disks.items())


def parse(text: str, ways: Iterable[str]) -> dict[str, Measured]:
    """What fio's report says of each way. CommandFailed: it lacks one, or a request failed."""
    try:
        found = {job["jobname"]: job for job in json.loads(text[text.index("{") :])["jobs"]}
        return {way: _measured(way, found[way]) for way in ways}
    except (ValueError, KeyError, TypeError) as error:
        raise CommandFailed(f"fio's report is not what it should be: {error!r}\n{text[:2000]}") from error


def _measured(way: str, job: Mapping[str, Any]) -> Measured:
    if job["error"]:
        raise CommandFailed(f"fio on {way}: error {job['error']}")
    sides: Sequence[Mapping[str, Any]] = [job[side] for side in ("read", "write") if job[side]["total_ios"]]
    requests = sum(side["total_ios"] for side in sides)
    if not sides or not requests:
        raise CommandFailed(f"fio on {way}: it made no request")
    latency_ns = sum(side["lat_ns"]["mean"] * side["total_ios"] for side in sides) / requests
    return Measured(requests / max(side["runtime"] for side in sides) * 1000, latency_ns / 1000, requests)


@dataclass(frozen=True)
class Disk:
    """Where a way's disk is: the guest, and its name there."""

    guest: Domain
    name: str


def run(job: Job, disks: Mapping[str, Disk]) -> dict[str, Measured]:
    """Does one job on each disk in turn, guest by guest."""
    found: dict[str, Measured] = {}
    for guest in dict.fromkeys(disk.guest for disk in disks.values()):
        here = {way: disk.name for way, disk in disks.items() if disk.guest is guest}
        guest.put("/run/bench.fio", job_file(job, here).encode(), mode=0o644)
        guest.run(f"fio --output-format=json --output={REPORT} /run/bench.fio", deadline_s=FIO_DEADLINE_S)
        found |= parse(guest.run(f"cat {REPORT}").stdout, here)
    return found
