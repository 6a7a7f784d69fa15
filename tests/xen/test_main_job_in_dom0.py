# SPDX-License-Identifier: GPL-2.0-or-later
"""Topology `dom0`: the main job through mediator and backend in dom0."""

from __future__ import annotations

import pytest

from tests.harness import Machine
from tests.xen import report, topology

pytestmark = [pytest.mark.xen, pytest.mark.timeout(1200)]


def test_main_job(xen: Machine, note: report.Note) -> None:
    """The guest's own virtio_blk keeps a file system whole, and the image in dom0 holds the same bytes."""
    with topology.together(xen) as running:
        found = report.run(running, "dom0", note)
    assert report.failures(found) == [], found
    assert found["bytes_zero_copy"] > 0 and found["bytes_bounced"] > 0
