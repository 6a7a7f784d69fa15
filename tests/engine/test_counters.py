# SPDX-License-Identifier: GPL-2.0-or-later
"""The operators' page explains the counters that the engine has."""

from __future__ import annotations

import re
from pathlib import Path

from xen_shadowvq.native import load

PAGE = Path(__file__).parents[2] / "docs" / "xen-host.md"


def test_every_counter_of_a_queue_is_explained() -> None:
    """The table of counters in docs/xen-host.md names each field of svq_queue_stats, and no other."""
    section = PAGE.read_text().partition("## What the counters say")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    fields = load("mediator").ffi.typeof("struct svq_queue_stats").fields
    assert explained == {name for name, _ in fields}
