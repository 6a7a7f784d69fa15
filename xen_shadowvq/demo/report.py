# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's outcome: judged, as a table for people, and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xen_shadowvq.output import printable

_MUST_BE_TRUE = {
    "image_sha256_match": "every byte of the disk read through the shadow rings",
    "written_sha256_match": "a region written, flushed, and read back",
    "restored_sha256_match": "the region put back as it was",
    "write_zeroes_ok": "WRITE_ZEROES, and zeroes read back",
    "discard_ok": "DISCARD",
    "out_of_range_is_ioerr": "a request beyond the end fails, alone",
    "held_requests_ok": "requests held during the attack still completed",
}
_MUST_BE_ZERO = {
    "pages_reachable_outside_requests": "frontend pages reachable with no request alive",
    "bytes_reachable_outside_buffers": "bytes reachable beyond the described buffers",
    "pages_writable_beyond_requests": "pages writable that were only to be read",
    "reachable_after_kept_mapping": "pages reachable though given back: mappings kept past their request",
    "reachable_after_mediator_killed": "pages reachable though given back: mediator killed under requests",
    "window_in_use_at_end": "grants left at the end",
    "canaries_broken": "canaries around headers and status bytes broken",
}
_GUEST_SAW = {
    "guest_saw_kept_mapping": "mappings kept: what the guest saw",
    "guest_saw_mediator_killed": "mediator killed: what the guest saw",
}
_FIGURES = {
    "requests": ("requests", "{:,}"),
    "data_mib": ("data moved", "{:,.1f} MiB"),
    "bytes_zero_copy": ("zero copy (granted)", "{:,} bytes"),
    "bytes_bounced": ("copied (bounced)", "{:,} bytes"),
    "grants": ("pages granted", "{:,}"),
    "grants_ended": ("grants ended", "{:,}"),
    "maps_per_request": ("backend map calls per request", "{:.3f}"),
    "notifications_per_request": ("notifications per request, all four ways", "{:.3f}"),
    "latency_p50_us": ("latency, median", "{:,.0f} us"),
    "latency_p99_us": ("latency, 99th percentile", "{:,.0f} us"),
    "pages_probed": ("pages and grants attacked", "{:,}"),
    "pages_reachable_inside_requests": ("pages reachable inside live requests", "{:,}"),
}


def failures(report: dict[str, Any]) -> list[str]:
    """What failed, in words."""
    wrong = [text for key, text in _MUST_BE_TRUE.items() if report.get(key) is not True]
    # Placement `page` grants whole pages, neighbours and all: that is its price, which is shown and is no failure.
    if report.get("placement") != "page":
        wrong += [f"{text}: {report.get(key)}" for key, text in _MUST_BE_ZERO.items() if report.get(key) != 0]
    if report.get("fsck_clean") is False:
        wrong.append("the file system checker found errors")
    return wrong


def write_json(report: dict[str, Any], path: Path) -> None:
    """Saves the report as JSON."""
    path.write_text(json.dumps(report, indent=2) + "\n")


def show(report: dict[str, Any], console: Console) -> None:
    """Prints the table that ends the demo."""
    table = Table(title="A disk through shadow virtqueues, on the embedded machine", title_style="bold", min_width=78)
    table.add_column("what was tried")
    table.add_column("outcome", justify="right")
    for key, text in _MUST_BE_TRUE.items():
        table.add_row(text, _mark(report.get(key) is True))
    checked = report.get("fsck_clean")
    kind = report.get("filesystem") or "no known file system"
    table.add_row(
        escape(f"file system check ({printable(kind)})"), "not checked" if checked is None else _mark(bool(checked))
    )
    table.add_section()
    for key, text in _MUST_BE_ZERO.items():
        value = report.get(key)
        table.add_row(text, f"[green]{value}[/]" if value == 0 else f"[bold red]{value}[/]")
    for key, text in _GUEST_SAW.items():
        table.add_row(text, str(report[key]))
    table.add_section()
    for key, (text, form) in _FIGURES.items():
        table.add_row(text, form.format(report[key]))
    table.caption = (
        f"placement {report['placement']}, {report['window']} grant window, image I/O by {report['io_engine']}; "
        "isolation is enforced here by the embedded machine's library, on Xen by the hypervisor"
    )
    console.print(table)


def _mark(good: bool) -> str:
    return "[green]yes[/]" if good else "[bold red]NO[/]"
