# SPDX-License-Identifier: GPL-2.0-or-later
"""Topology `separate`: a PV mediator domain, a backend driver domain, and a stock PVH guest, on real Xen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.xen import report
from tests.xen.remote import until
from tests.xen.topology import Topology

pytestmark = [pytest.mark.xen, pytest.mark.timeout(1200)]

IMAGE = f"{report.IMAGES}/disk.img"


def test_main_job_and_isolation(separate: Topology, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped units start in domains of their own; from the backend's domain no frame of the frontend can be
    mapped and no grant but those of live requests; the guest's own virtio_blk keeps a file system whole."""

    def note(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="")

    found = report.run(separate, "separate", note)
    assert report.failures(found) == [], found
    assert found["held_requests_ok"]
    assert found["mapped_while_live"] > 100, "the probe has to find what is there"
    assert found["bounce_tags_seen"] > 0, "and the fragments, in the mediator's pages"
    assert found["bytes_zero_copy"] > 0 and found["bytes_bounced"] > 0


def test_services_are_confined(separate: Topology) -> None:
    """The units run as shipped, and systemd rates their exposure at most 3.0."""
    for place, name in ((separate.mediator, "shadowvq-mediator"), (separate.backend, "shadowvq-backend")):
        shown = place.run(f"systemctl show {name} -p Type -p ActiveState -p NRestarts").stdout.split()
        assert sorted(shown) == ["ActiveState=active", "NRestarts=0", "Type=notify"]
        checked = place.start(f"systemd-analyze verify --man=no /etc/systemd/system/{name}.service").wait()
        assert (checked.status, name in checked.stderr) == (0, False), checked.stderr
        rated = place.run(f"systemd-analyze security --no-pager {name} | tail -n 1").stdout
        assert float(rated.split(":")[1].split()[0]) <= 3.0, rated


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
