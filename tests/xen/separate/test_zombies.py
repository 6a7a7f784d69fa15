# SPDX-License-Identifier: GPL-2.0-or-later
"""Each domain is destroyed while the guest writes. The last tests of this topology: nothing is left of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.scripts import until
from tests.xen import report
from tests.xen.topology import Topology

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

IMAGE = f"{report.IMAGES}/disk.img"


def write_without_end(topology: Topology) -> None:
    """The guest writes to its disk, in the background, until it gets an error."""
    topology.frontend.run(
        "cp -a /dev/vda /run/disk; dd if=/dev/urandom of=/run/data bs=64k count=16; "
        "(while dd if=/run/data of=/run/disk bs=64k oflag=direct; do :; done; echo ended >/run/ended) >/dev/null 2>&1 &"
    )


def domains(topology: Topology) -> set[str]:
    """Names of all domains that the hypervisor knows."""
    return set(topology.machine.domains.list())


@pytest.mark.parametrize("victim", ["backend", "mediator", "frontend"])
def test_destroyed_under_io_leaves_no_zombie(victim: str, separate: Topology) -> None:
    """Each domain in turn is destroyed while the guest writes: it is gone at once, and the others go on."""
    everyone = {"backend": separate.backend, "mediator": separate.mediator, "frontend": separate.frontend}
    before = domains(separate)
    if victim == "backend":
        separate.load_module()
        separate.backend.run(f"truncate -s 16M {IMAGE}")
        separate.attach(IMAGE)
        separate.frontend.run(until("[ -b /dev/vda ]"), deadline_s=90)
        write_without_end(separate)
    gone: Any = everyone[victim]
    gone.destroy()
    assert domains(separate) == before - {gone.name}
    if victim == "backend":  # its guest and its mediator are well
        separate.mediator.run("systemctl is-active shadowvq-mediator")
    if victim != "frontend":
        separate.frontend.run("true")
