# SPDX-License-Identifier: GPL-2.0-or-later
"""Topology `separate`: a PV mediator domain, a backend driver domain, and a stock PVH guest, on real Xen."""

from __future__ import annotations

import pytest

from tests.xen import report
from tests.xen.topology import Topology

pytestmark = [pytest.mark.xen, pytest.mark.timeout(1800)]


def test_main_job_and_isolation(separate: Topology, note: report.Note) -> None:
    """The shipped units start in domains of their own; from the backend's domain no frame of the frontend can be
    mapped and no grant but those of live requests; the guest's own virtio_blk keeps a file system whole."""
    found = report.run(separate, "separate", note)
    assert report.failures(found) == [], found
    assert found["held_requests_ok"]
    assert found["mapped_while_live"] > 50, "the probe has to find what is there"
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
