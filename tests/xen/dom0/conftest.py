# SPDX-License-Identifier: GPL-2.0-or-later
"""Two guests for all tests of this folder: the first is for the tests, the second is at work all the time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import Domain, Machine
from tests.harness.scripts import until
from tests.xen import report, topology
from tests.xen.topology import Topology
from tests.xen.writer import DISK_IS_THERE

READER = Path(__file__).with_name("neighbour_reader.py")
QUEUES = 2  # one for each of its processors
ROUNDS = " ".join(f"/run/rounds-{cpu}" for cpu in range(QUEUES))


@dataclass
class Neighbour:
    """The second guest, which reads its disk without end on each of its processors, and counts the rounds."""

    topology: Topology
    guest: Domain
    device: int

    def rounds(self) -> list[int]:
        """How many times each processor has read the disk so far; each time the bytes that are in the image."""
        look = "if [ -e /run/differs ]; then sha256sum /run/differs; wc -c /run/differs; exit 1; fi"
        return [int(count) for count in self.guest.run(f"{look}; stat -c %s {ROUNDS}").stdout.split()]

    def goes_on(self) -> None:
        """Waits for a round on each processor that begins after now."""
        now = self.rounds()
        more = " -a ".join(f"$(stat -c %s /run/rounds-{cpu}) -ge {count + 2}" for cpu, count in enumerate(now))
        self.guest.run(until(f"[ {more} ]"), deadline_s=120)
        self.rounds()


@pytest.fixture(scope="package")
def together(xen: Machine) -> Iterator[Topology]:
    """Mediator and backend in dom0, two guests."""
    with topology.together(xen) as running:
        yield running


@pytest.fixture(scope="package")
def neighbour(together: Topology) -> Neighbour:
    """The second guest at work with the stock driver."""
    guest, image = together.frontends[1], f"{report.IMAGES}/neighbour.img"
    made = together.machine.run(f"dd if=/dev/urandom of={image} bs=64k count=8; sha256sum {image}")
    together.load_module(guest)
    device = together.attach(image, frontend=guest, queues=QUEUES)
    guest.put("/run/reader.py", READER.read_bytes())
    reader = f"(python3 /run/reader.py {made.stdout.split()[0]} {QUEUES} >/run/reader.log 2>&1) &"
    guest.run(f"{DISK_IS_THERE}; {reader} {until(f'stat {ROUNDS}')}", deadline_s=120)
    return Neighbour(together, guest, device)
