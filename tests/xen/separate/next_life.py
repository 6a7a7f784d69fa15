# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's next life gets the next mediator's domain, made by the service from its xl configuration."""

from __future__ import annotations

import pytest

from tests.harness import Domain
from tests.harness.domains import CONFIGS
from tests.harness.scripts import until
from tests.xen import report
from tests.xen.topology import Topology, start_services
from tests.xen.writer import DISK_IS_THERE

pytestmark = [pytest.mark.xen, pytest.mark.timeout(1800)]

IMAGE = f"{report.IMAGES}/declared.img"
DECLARATION = f"""
mediator: mediator
mediator_config: {CONFIGS}/mediator.cfg
backend: backend
disks:
  - image: {IMAGE}
"""
FILE = "/etc/shadowvq/guests.d/frontend.yaml"
READ = "dd if=/dev/vda bs=64k count=8 iflag=direct | md5sum"
START_S = 240.0


def reads(topology: Topology) -> str:
    """What the guest reads from its disk, once it has one."""
    topology.load_module()
    return topology.frontend.run(f"{DISK_IS_THERE}; {READ}", deadline_s=120).stdout


def test_the_next_life_gets_the_next_mediator(separate: Topology) -> None:
    """The guest has its declared disk by the mediator's domain that is there. The guest is destroyed and created again:
    the service destroys that domain, with which the husk of the old life goes, and creates the next one for the new
    life, and the guest reads the same from its disk. (Only the unit in the mediator's domain is started by hand: its
    image here has none.)"""
    machine, guest, mediator = separate.machine, separate.frontend, separate.mediator
    assert isinstance(mediator, Domain)
    separate.backend.run(f"dd if=/dev/urandom of={IMAGE} bs=64k count=8; truncate -s 8M {IMAGE}")
    written = separate.backend.run(f"dd if={IMAGE} bs=64k count=8 | md5sum").stdout
    machine.put(FILE, DECLARATION.encode())
    machine.run("sh /opt/shadowvq/deploy/install.sh guests-xl; systemctl start shadowvq-guests", deadline_s=START_S)
    assert reads(separate) == written

    machine.run(f"xl destroy {guest.domid}", deadline_s=90)
    separate.frontends[0] = machine.domains.create_paused(guest.spec)
    separate.frontend.unpause()
    separate.mediator = again = machine.domains.restarted(mediator)
    assert machine.run(f"xenstore-read {again.path}/target").stdout.strip() == str(separate.frontend.domid)
    start_services({"mediator": again})
    separate.frontend.wait_booted()
    assert reads(separate) == written
    assert set(machine.domains.list()) == {"Domain-0", "frontend", "mediator", "backend"}

    machine.run(f"rm {FILE}; systemctl reload shadowvq-guests")
    separate.frontend.run(until("[ ! -e /dev/vda ]"), deadline_s=90)
    machine.run("systemctl stop shadowvq-guests && xl list mediator", deadline_s=90)
    separate.unload_module()
