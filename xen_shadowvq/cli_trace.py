# SPDX-License-Identifier: GPL-2.0-or-later
"""The command for whoever looks for a stuck request."""

from __future__ import annotations

from pathlib import Path

import click

from xen_shadowvq import devices
from xen_shadowvq.cli_options import json_option, names_a_device, timeout_option
from xen_shadowvq.dom0 import Dom0
from xen_shadowvq.output import say, say_json
from xen_shadowvq.trace import QueueTrace, TraceEvent
from xenstore_schema import nodes

_COLUMNS = (
    ("age", 12), ("event", 10), ("head", 6), ("parts", 6), ("granted", 8), ("copied", 7), ("pages", 6), ("bytes", 11),
    ("used length", 12), ("check", 0),
)  # fmt: skip


@click.command("trace", short_help="Show where a queue stands, and its latest events.")
@names_a_device
@click.option(
    "--queue",
    type=click.IntRange(0, nodes.VirtioBack.TRACE_QUEUE.high),
    default=0,
    show_default=True,
    help="Which of its queues.",
)
@click.option(
    "--every",
    type=click.IntRange(0, nodes.VirtioBack.TRACE_EVERY.high),
    help="Trace every Nth chain as well from now on, until this is given again; 0: none.",
    metavar="N",
)
@timeout_option
@json_option
def trace(
    sim_directory: Path | None,
    frontend: str,
    device: int,
    queue: int,
    every: int | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Show where a queue of DEVICE of domain FRONTEND stands, and its latest events.

    Chains that a check refused, that had to wait, or whose pages a backend keeps are always among them. After a device
    has closed this shows how it ended. The queue is not stopped for it.

    \b
    shadowvq ctl trace web1 0                see what is in flight, and what went wrong
    shadowvq ctl trace web1 0 --every 1      follow every chain; later: --every 0
    """
    with Dom0(sim_directory) as dom0:
        domid = dom0.domid(frontend)
        found = devices.trace(dom0, devices.find(dom0, domid, device), queue, every, timeout_s)
        if as_json:
            say_json({"frontend": domid, "device": device, **found.model_dump(mode="json")})
            return
        say(f"domain {dom0.domain_name(domid)}  device {device}  {_where(found)}")
        for line in _standing(found):
            say(line)
        if found.events:
            say("".join(f"{name:>{width}}" if width else f"  {name}" for name, width in _COLUMNS))
        for event in found.events:
            say(_event_line(event))
        if not found.events and found.connection == "live":
            say("  no events: nothing went wrong, and no chain was traced (--every N)")


def _where(found: QueueTrace) -> str:
    named = f"queue {found.queue} of {found.queues}"
    match found.connection:
        case "live":
            return f"{named}: {found.state}{', parked' if found.parked else ''}"
        case "ended":
            return f"{named}: not connected; what follows is how the last connection ended"
        case _:
            return f"{named}: never connected since the mediator started"


def _standing(found: QueueTrace) -> list[str]:
    heads = ", ".join(map(str, found.heads))
    more = ", ..." if len(found.heads) < found.in_flight else ""
    traced = f"one in {found.every:,}" if found.every else "none but those out of the ordinary"
    return [
        f"  in flight at the backend: {found.in_flight}{f' (heads {heads}{more})' if heads else ''}",
        f"  made available by the driver, not taken yet: {found.available}",
        f"  returned by the backend, not completed yet: {found.used}",
        f"  chains traced: {traced}",
    ]


def _event_line(event: TraceEvent) -> str:
    head = "-" if event.head is None else str(event.head)
    values = (
        f"{event.age_us / 1e6:.6f} s", event.event, head, str(event.parts), str(event.granted), str(event.copied),
        str(event.pages), f"{event.bytes:,}", f"{event.used_length:,}", event.code or "",
    )  # fmt: skip
    cells = zip(values, _COLUMNS, strict=True)
    return "".join(f"{value:>{width}}" if width else f"  {value}" for value, (_, width) in cells).rstrip()
