# SPDX-License-Identifier: GPL-2.0-or-later
"""Two guests for all tests of this folder: the first is for the tests, the second is at work all the time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.harness import Domain, Machine
from tests.harness.scripts import until
from tests.xen import report, topology
from tests.xen.topology import Topology
from tests.xen.writer import DISK_IS_THERE

READ = "dd if=/dev/vda bs=64k count=8 iflag=direct"
# It rests after each round: there is one emulated processor for all. A read that fails does not count, one that
# succeeds has to read what was there in the beginning.
READER = f"""
while :; do
    if {READ} of=/run/read-$1; then
        [ "$(md5sum </run/read-$1)" = "$(cat /run/wanted)" ] || cp /run/read-$1 /run/differs
        echo >>/run/rounds
    fi
    sleep 1
done
"""
QUEUES = 2  # one for each of its processors


@dataclass
class Neighbour:
    """The second guest, which reads its disk without end on each of its processors, and counts the rounds."""

    topology: Topology
    guest: Domain
    device: int

    def rounds(self) -> int:
        """How many times it has read its disk so far; each time the same bytes."""
        look = "if [ -e /run/differs ]; then md5sum /run/differs /run/wanted; wc -c /run/differs; exit 1; fi"
        return int(self.guest.run(f"{look}; wc -l < /run/rounds").stdout)

    def goes_on(self) -> None:
        """Waits for a round on each processor that begins after now."""
        wanted = self.rounds() + 2 * QUEUES
        self.guest.run(until(f"[ $(wc -l < /run/rounds) -ge {wanted} ]"), deadline_s=120)
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
    together.machine.run(f"dd if=/dev/urandom of={image} bs=64k count=8")
    together.load_module(guest)
    device = together.attach(image, frontend=guest, queues=QUEUES)
    guest.put("/run/reader.sh", READER.encode())
    readers = " ".join(f"taskset -c {cpu} sh /run/reader.sh {cpu} >/dev/null 2>&1 &" for cpu in range(QUEUES))
    guest.run(f"{DISK_IS_THERE}; {READ} | md5sum >/run/wanted && touch /run/rounds && {{ {readers} }}", deadline_s=120)
    return Neighbour(together, guest, device)
