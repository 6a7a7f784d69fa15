# SPDX-License-Identifier: GPL-2.0-or-later
"""The observer that watched all the tests before this one: it has looked, and it can see."""

from __future__ import annotations

import pytest

from tests.xen.remote import Remote
from tests.xen.topology import Topology

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

LOOKS_MIN = 100
GTF_PERMIT_ACCESS = 1
NOBODYS_MARK = 127
NOBODY = 31999


def test_observer_has_seen_what_there_was(together: Topology, observer: Remote) -> None:
    """It has looked often, and while pages were granted; an entry with the mark of no device, which lets nobody at a
    page that is none, is found."""
    seen = observer.call("take")
    assert seen["looks"] > LOOKS_MIN and seen["open_max"] > 0, seen
    entry = GTF_PERMIT_ACCESS | NOBODYS_MARK << 9 | NOBODY << 16 | 0xFFFFF << 32
    gref = observer.call("plant", domid=together.frontend.domid, entry=entry)
    (found,) = observer.call("take")["found"]
    assert f"entry {gref} is {entry:#x}" in found and "no device has such a mark" in found
