# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job in a guest: a file system with some thousand real files on /dev/vda, and fio; all read back, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.harness import Domain
from tests.xen.remote import Place
from tests.xen.topology import Topology
from tests.xen.writer import DISK_IS_THERE

# Real files of a Debian system, some three thousand; all of them, as long as there is room.
TREES = "/usr/lib/python3.11 /usr/lib/python3 /usr/bin /usr/share /etc"
FILES_MAX, FILES_MIB_MAX = 3000, 40
FIO_QUEUE_DEPTH, FIO_JOBS = 32, 2
# Pattern, block size, and MiB of each of two files.
FIO_RUNS = (
    ("randrw", "512", 1),
    ("randrw", "4k", 4),
    ("write", "64k", 8),
    ("randwrite", "20k", 4),
    ("write", "1m", 16),
)
EILSEQ = 84  # what fio ends with when a block does not hold what was written to it
STEP_DEADLINE_S = 420.0

Note = Callable[[str], None]


@dataclass(frozen=True)
class JobResult:
    """What the job found. Sizes in bytes."""

    guest_driver: str
    guest_transport: str
    disk_bytes: int
    files: int
    files_bytes: int
    files_match: bool
    fsck_clean: bool
    fio_bytes: int
    fio_requests: int
    fio_verify_errors: int
    image_matches: bool


def fio_job_file() -> str:
    """The text of fio's job file: each run writes two files at once and then reads them back and compares."""
    common = (
        "[global]\ndirectory=/mnt\ndirect=1\nioengine=libaio\nverify=crc32c\ndo_verify=1\nverify_fatal=0\n"
        f"iodepth={FIO_QUEUE_DEPTH}\nnumjobs={FIO_JOBS}\nthread=1\nrandseed=1\n"
    )
    runs = (
        f"[{pattern}-{block}]\nstonewall\nrw={pattern}\nbs={block}\nsize={mib}m\n" for pattern, block, mib in FIO_RUNS
    )
    return common + "".join(runs)


def run_disk_job(topology: Topology, image: str, note: Note) -> JobResult:
    """Does the whole job on the guest's /dev/vda, whose bytes are `image` in the backend's domain.

    Raises CommandFailed where a step fails; what does not compare is in the result. `note` is told of each step.
    """
    guest = topology.frontend
    guest.run(DISK_IS_THERE, deadline_s=90)
    driver, transport = _who_drives(guest)
    disk_bytes = int(guest.run("cat /sys/block/vda/size").stdout) * 512

    note("mkfs.ext4, a tree of files, checksums")
    files, files_bytes, files_match = _copy_files(guest)
    note("fio: random and sequential, five block sizes, depth 32, two jobs, verify")
    report = _run_fio(guest)
    note("unmount, fsck")
    guest.run("umount /mnt", deadline_s=STEP_DEADLINE_S)
    fsck = guest.start("e2fsck -f -n /dev/vda", deadline_s=STEP_DEADLINE_S).wait()
    note("image and disk, byte for byte")
    return JobResult(
        guest_driver=driver,
        guest_transport=transport,
        disk_bytes=disk_bytes,
        files=files,
        files_bytes=files_bytes,
        files_match=files_match,
        fsck_clean=fsck.status == 0,
        fio_bytes=sum(job[way]["io_bytes"] for job in report for way in ("read", "write")),
        fio_requests=sum(job[way]["total_ios"] for job in report for way in ("read", "write")),
        fio_verify_errors=sum(job["error"] == EILSEQ for job in report),
        image_matches=_checksum(guest, "/dev/vda") == _checksum(topology.backend, image),
    )


def _who_drives(guest: Domain) -> tuple[str, str]:
    """The names of the disk's driver and of the transport below it, as the guest's kernel says them."""
    found = guest.run(
        "device=$(readlink -f /sys/block/vda/device); basename $(readlink $device/driver); "
        "basename $(readlink -f $device/../..)"
    )
    driver, transport = found.stdout.split()
    return driver, transport


def _copy_files(guest: Domain) -> tuple[int, int, bool]:
    """Makes a file system and copies files to it; their number, their bytes, and whether all read back the same."""
    guest.run("mkfs.ext4 -q -F /dev/vda && mkdir -p /mnt && mount -t ext4 /dev/vda /mnt", deadline_s=STEP_DEADLINE_S)
    chosen = (
        f"find {TREES} -xdev -type f -printf '%s %p\\n' | head -n {FILES_MAX} | "
        f"awk '(bytes += $1) <= {FILES_MIB_MAX << 20} {{ sub(/^[0-9]+ /, \"\"); print }}' > /run/files"
    )
    guest.run(
        f"{chosen}; mkdir /mnt/tree && tar -c -P -T /run/files -f - | tar -x -P --strip-components=0 "
        "--transform 's,^/,/mnt/tree/,' -f - && sync",
        deadline_s=STEP_DEADLINE_S,
    )
    guest.run("xargs -d '\\n' md5sum < /run/files | sed 's,  /,  /mnt/tree/,' > /run/sums", deadline_s=STEP_DEADLINE_S)
    guest.run("umount /mnt && mount -t ext4 /dev/vda /mnt", deadline_s=STEP_DEADLINE_S)  # nothing of it is cached now
    compared = guest.start("md5sum --quiet -c /run/sums", deadline_s=STEP_DEADLINE_S).wait()
    count, size = guest.run("wc -l < /run/sums; du -sb /mnt/tree | cut -f1").stdout.split()
    return int(count), int(size), compared.status == 0


def _run_fio(guest: Domain) -> list[dict[str, Any]]:
    """Runs fio and returns its report of each job; an error other than a difference fails."""
    guest.put("/run/job.fio", fio_job_file().encode(), mode=0o644)
    done = guest.start(
        "fio --output-format=json --output=/run/fio.json /run/job.fio", deadline_s=STEP_DEADLINE_S
    ).wait()
    text = guest.run("cat /run/fio.json").stdout
    jobs: list[dict[str, Any]] = json.loads(text[text.index("{") :])["jobs"]
    assert len(jobs) == len(FIO_RUNS) * FIO_JOBS, f"fio reports {len(jobs)} jobs\n{done.stderr}"
    assert {job["error"] for job in jobs} <= {0, EILSEQ}, [(job["jobname"], job["error"]) for job in jobs]
    return jobs


def _checksum(where: Place, path: str) -> str:
    forget = "echo 3 > /proc/sys/vm/drop_caches" if isinstance(where, Domain) else "true"
    found = where.run(f"sync; {forget}; md5sum {path}", deadline_s=STEP_DEADLINE_S)
    assert re.match(r"[0-9a-f]{32} ", found.stdout), found.stdout
    return found.stdout.split()[0]
