# SPDX-License-Identifier: GPL-2.0-or-later
"""Declared disks come back by themselves, with the shipped unit: after the tests that attach and detach by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.harness import Domain, Machine
from tests.harness.scripts import until
from tests.xen import page, report
from tests.xen.topology import Topology, start_services
from tests.xen.writer import DISK_IS_THERE

pytestmark = [pytest.mark.xen, pytest.mark.timeout(1800)]

IMAGE = f"{report.IMAGES}/declared.img"
UNITS = ["shadowvq-mediator", "shadowvq-backend", "shadowvq-guests"]
LIVES, RESTARTS, COLD_STARTS = 5, 3, 2
START_S = 240.0  # Python starts slowly there
READ = "dd if=/dev/vda bs=64k count=8 iflag=direct | md5sum"


def systemctl(machine: Machine, verb: str, units: list[str]) -> None:
    """Runs systemctl for one unit after another."""
    machine.run("; ".join(f"systemctl {verb} {unit}" for unit in units), deadline_s=START_S)


@pytest.fixture(scope="module")
def written(together: Topology) -> Iterator[str]:
    """All three services run, and the first guest's disk is declared; yields the checksum of what is on it."""
    machine, guest = together.machine, together.frontend
    start_services({"mediator": machine, "backend": machine})
    machine.run(
        f"dd if=/dev/urandom of={IMAGE} bs=64k count=8; truncate -s 8M {IMAGE}; mkdir -p /etc/shadowvq/guests.d"
    )
    machine.put(f"/etc/shadowvq/guests.d/{guest.name}.yaml", f"disks: [{{image: {IMAGE}}}]\n".encode())
    machine.run(page.script("start-guests"), deadline_s=START_S)
    yield machine.run(f"dd if={IMAGE} bs=64k count=8 | md5sum").stdout
    machine.run(f"rm /etc/shadowvq/guests.d/{guest.name}.yaml; systemctl reload shadowvq-guests")
    machine.run(
        until(f"! xenstore-exists /local/domain/{together.frontend.domid}/shadowvq/0/grant-mark"), deadline_s=120
    )
    systemctl(machine, "disable --now", ["shadowvq-guests"])


def reads(together: Topology, guest: Domain) -> str:
    """What the guest reads from its disk, once it has one."""
    together.load_module(guest)
    return guest.run(f"{DISK_IS_THERE}; {READ}", deadline_s=120).stdout


def nothing_left(together: Topology, domid: int) -> None:
    """Waits until the services have let go of a life that is over."""
    gone = f'[ -z "$(xenstore-list /local/domain/0/backend/virtio/{domid} 2>/dev/null)" ]'
    together.machine.run(until(gone), deadline_s=90)


def test_a_guest_reboots_five_times(together: Topology, written: str) -> None:
    """Each life of the stock guest, under another domid, has its disk without a command, and nothing is left of the one
    before. The unit has not been restarted meanwhile."""
    machine, guest = together.machine, together.frontend
    assert reads(together, guest) == written
    for _ in range(LIVES):
        before = guest.domid
        guest.run("(sleep 1; echo b > /proc/sysrq-trigger) >/dev/null 2>&1 &")
        guest = together.wait_rebooted(guest)
        assert guest.domid != before
        assert reads(together, guest) == written
        nothing_left(together, before)
    shown = machine.run("systemctl show shadowvq-guests -p Type -p ActiveState -p NRestarts").stdout.split()
    assert sorted(shown) == ["ActiveState=active", "NRestarts=0", "Type=notify"]


def test_services_restart_in_any_order(together: Topology, written: str) -> None:
    """Three times all three services are stopped and started in an order of chance: the guest has its disk again, and
    its device is the one that it had."""
    machine, guest, chance = together.machine, together.frontend, random.Random(1)
    attached = f"xenstore-read /local/domain/{guest.domid}/shadowvq/0/attached"
    assert reads(together, guest) == written
    before = machine.run(attached).stdout
    for _ in range(RESTARTS):
        for verb in ("stop", "start"):
            systemctl(machine, verb, chance.sample(UNITS, len(UNITS)))
        guest.run(until("dd if=/dev/vda of=/dev/null bs=64k count=8 iflag=direct"), deadline_s=180)
        assert guest.run(READ).stdout == written
    assert machine.run(attached).stdout == before


@pytest.mark.parametrize("seed", range(COLD_STARTS))
def test_cold_start(together: Topology, written: str, seed: int) -> None:
    """Guest and services are all down, and come up in an order of chance: the guest has its disk."""
    machine, guest, chance = together.machine, together.frontend, random.Random(seed)
    systemctl(machine, "stop", UNITS)
    guest.destroy()
    for what in chance.sample([*UNITS, guest.name], len(UNITS) + 1):
        if what != guest.name:
            systemctl(machine, "start", [what])
            continue
        together.frontends[0] = again = machine.domains.create_paused(guest.spec)
        again.unpause()
    together.frontend.wait_booted()
    assert reads(together, together.frontend) == written
    nothing_left(together, guest.domid)


def test_the_unit_is_confined(together: Topology, written: str) -> None:
    """It runs as shipped, systemd finds no fault in it, and rates its exposure at most 3.0."""
    del written
    name = "shadowvq-guests"
    checked = together.machine.start(f"systemd-analyze verify --man=no /etc/systemd/system/{name}.service").wait()
    assert (checked.status, name in checked.stderr) == (0, False), checked.stderr
    rated = together.machine.run(f"systemd-analyze security --no-pager {name} | tail -n 1").stdout
    assert float(rated.split(":")[1].split()[0]) <= 3.0, rated
