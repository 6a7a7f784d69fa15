# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose memory is taken and given back while it works: its requests read and write its own bytes all along."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tests.harness import Domain
from tests.harness.scripts import until
from tests.xen import report
from tests.xen.topology import Topology
from tests.xen.writer import DISK_IS_THERE

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

IMAGE = f"{report.IMAGES}/balloon.img"
LOW_MIB, HIGH_MIB, TIMES = 272, 384, 3
# Small and large, aligned to sectors alone: headers, fragments, whole pages; each block written is read and compared.
FIO = (
    "fio --name=b --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-64k "
    "--iomem_align=512 --size=12m --verify=crc32c --verify_backlog=64 --verify_fatal=1 --time_based --runtime=3600 "
    "--output-format=json --output=/run/balloon.json"
)
# What is free is taken and given back all the time, so that pages go from one use to another.
CHURN = "while :; do dd if=/dev/zero of=/run/churn bs=1M count=48; rm -f /run/churn; done"


def completed(more_than: int, counters: dict[str, Any]) -> bool:
    """Whether so many requests have come back."""
    return bool(counters["completions"] > more_than)


def balloon(topology: Topology, guest: Domain, mib: int) -> None:
    """Has the toolstack set the guest's memory, and waits until the guest has done so."""
    topology.machine.run(f"xl mem-set {guest.domid} {mib}", deadline_s=120)
    now = f"$(xl list {guest.domid} | awk 'NR == 2 {{ print $3 }}')"
    topology.machine.run(until(f"[ {now} -le {mib + 2} -a {now} -ge {mib - 2} ]"), deadline_s=180)


def test_memory_comes_and_goes_under_verified_io(together: Topology) -> None:
    """`xl mem-set` down and up again, several times, under fio that compares every block it has written: not one is
    wrong, and the device stays well."""
    guest = together.frontend
    together.machine.run(f"rm -f {IMAGE}; truncate -s 16M {IMAGE}")
    together.load_module()
    device = together.attach(IMAGE)
    guest.run(f"{DISK_IS_THERE}; ({CHURN}) >/dev/null 2>&1 & echo $! >/run/churn.pid; ({FIO}) >/dev/null 2>&1 &")
    together.until_status(device, "requests flow", lambda now: now["completions"] > 200)
    for _ in range(TIMES):
        before = together.status(device)["completions"]
        balloon(together, guest, LOW_MIB)
        balloon(together, guest, HIGH_MIB)
        together.until_status(device, "requests flow", partial(completed, before + 200))
    guest.run(f"kill $(cat /run/churn.pid); pkill -INT -x fio; {until('! pgrep -x fio')}", deadline_s=120)
    text = guest.run("cat /run/balloon.json").stdout
    (job,) = json.loads(text[text.index("{") :])["jobs"]
    assert job["error"] == 0
    assert job["read"]["total_ios"] > 100 and job["write"]["total_ios"] > 100
    status = together.status(device)
    assert status["state"] == "connected"
    assert status["bytes_bounced"] > 0 and status["bytes_zero_copy"] > 0
    together.detach(device)
