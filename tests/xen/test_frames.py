# SPDX-License-Identifier: GPL-2.0-or-later
"""Watching the frames of a guest that balloons, from dom0: it waits for whoever watches, and for nobody else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.harness import Domain, DomainSpec, Machine
from tests.harness.domains import Kind
from tests.harness.scripts import until

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

PROGRAM = "/opt/shadowvq/payload/seam_frames"
LARGE_MIB, SMALL_MIB = 256, 192
FRAMES_OUT = (LARGE_MIB - SMALL_MIB) << 8
WAITS_S = 5  # time enough for a guest that does not wait


@pytest.fixture
def guest(xen: Machine) -> Iterator[Domain]:
    """A guest with two processors, at its largest."""
    spec = DomainSpec("balloon", Kind.PVH, memory_mib=LARGE_MIB, vcpus=2)
    with xen.domains.running(spec) as domain:
        yield domain
    assert set(xen.domains.list()) == {"Domain-0"}  # nobody holds anything of it


class Watcher:
    """A process in dom0 that watches the guest."""

    def __init__(self, xen: Machine, guest: Domain, mode: str) -> None:
        self._xen = xen
        self._folder = f"/run/watcher-{guest.domid}-{mode}"
        self._status = f"{self._folder}/status"
        ended = f"[ -e {self._folder}/ended ]"
        xen.run(
            f"rm -rf {self._folder}; mkdir {self._folder}; "
            f"(sh -c 'echo $$ >{self._folder}/pid; exec {PROGRAM} {mode} {guest.domid} {self._status}' "
            f">{self._folder}/log 2>&1; echo $? >{self._folder}/ended) & "
            + until(f"[ -e {self._status} ] || {ended}")
            + f"; if {ended}; then cat {self._folder}/log >&2; exit 1; fi"
        )

    def status(self) -> tuple[int, int]:
        """How often frames changed, and how many are out."""
        found = re.fullmatch(r"changes (\d+) out (\d+)\n", self._xen.run(f"cat {self._status}").stdout)
        assert found is not None
        return int(found[1]), int(found[2])

    def wait_out(self, frames: int) -> None:
        """Waits until so many of the guest's frames are out, and it has mapped all others anew."""
        self._xen.run(until(f"grep -q 'out {frames}$' {self._status}"))

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        self._xen.run(f"kill -KILL $(cat {self._folder}/pid); {until(f'[ -e {self._folder}/ended ]')}")

    def stop(self) -> None:
        """Lets it end as it should."""
        self._xen.run(f"kill -TERM $(cat {self._folder}/pid); {until(f'[ -e {self._folder}/ended ]')}")
        ended = self._xen.run(f"cat {self._folder}/ended {self._folder}/log").stdout
        assert ended == "0\n", ended


def memory_mib(xen: Machine, guest: Domain) -> int:
    """What the guest has now."""
    return int(xen.run(f"xl list {guest.domid}").stdout.splitlines()[1].split()[2])


def balloon(xen: Machine, guest: Domain, mib: int) -> None:
    """Tells the guest how much memory it is to have."""
    xen.run(f"xl mem-set {guest.domid} {mib}")


def wait_memory(xen: Machine, guest: Domain, mib: int) -> None:
    """Waits until it has that."""
    xen.run(until(f"[ $(xl list {guest.domid} | awk 'NR == 2 {{ print $3 }}') = {mib} ]"))


def assert_waits(xen: Machine, guest: Domain) -> None:
    """The guest has been told to shrink, and does not get on with it."""
    xen.run(f"sleep {WAITS_S}")
    assert memory_mib(xen, guest) > LARGE_MIB - (LARGE_MIB - SMALL_MIB) // 4


def test_changes_are_told_and_awaited(xen: Machine, guest: Domain) -> None:
    """All frames that a guest balloons out are told before it goes on, so that a mediator can let go of them."""
    watcher = Watcher(xen, guest, "serve")
    balloon(xen, guest, SMALL_MIB)
    wait_memory(xen, guest, SMALL_MIB)
    watcher.wait_out(FRAMES_OUT)
    changes, _ = watcher.status()
    assert changes > 1
    balloon(xen, guest, LARGE_MIB)
    wait_memory(xen, guest, LARGE_MIB)
    watcher.stop()

    again = Watcher(xen, guest, "serve")
    assert again.status() == (0, 0), "after it has got them back, all frames can be mapped"
    again.stop()


def test_a_killed_watcher_is_succeeded(xen: Machine, guest: Domain) -> None:
    """A guest waits for a watcher that was killed, until the next one answers in its place; then it goes on."""
    Watcher(xen, guest, "serve").kill()
    balloon(xen, guest, SMALL_MIB)
    assert_waits(xen, guest)

    successor = Watcher(xen, guest, "serve")
    wait_memory(xen, guest, SMALL_MIB)
    successor.wait_out(FRAMES_OUT)
    successor.stop()


def test_a_watcher_that_ends_lets_the_guest_go_on(xen: Machine, guest: Domain) -> None:
    """Closing answers a guest that waits at that moment, and then it balloons with nobody to wait for."""
    watcher = Watcher(xen, guest, "hold")
    balloon(xen, guest, SMALL_MIB)
    assert_waits(xen, guest)
    watcher.stop()
    wait_memory(xen, guest, SMALL_MIB)
    balloon(xen, guest, LARGE_MIB)
    wait_memory(xen, guest, LARGE_MIB)
