# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job on real Xen, from attaching the disk to the figures: what the demo shows and a test asserts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.xen.aftermath import watch
from tests.xen.disk_job import JobResult, run_disk_job
from tests.xen.isolation import IsolationResult, attack
from tests.xen.topology import Topology
from xen_shadowvq.demo.aftermath import Aftermath

IMAGES = "/var/lib/shadowvq"
IMAGE_MIB = 128
Note = Callable[[str], None]

# Key of the report: what it says, and what it must be (None: a figure).
ROWS: dict[str, tuple[str, object]] = {
    "hypervisor": ("hypervisor, as it says itself", None),
    "topology": ("topology", None),
    "guest_driver": ("driver of the guest's disk", "virtio_blk"),
    "guest_transport": ("below it", "virtio_xenbus"),
    "files": ("files copied to the disk", None),
    "files_match": ("their checksums match", True),
    "fio_bytes": ("bytes moved by fio", None),
    "fio_verify_errors": ("blocks that fio found wrong", 0),
    "fsck_clean": ("file system check is clean", True),
    "image_matches": ("the backend's image holds what the guest reads", True),
    "frames_probed": ("frames attacked by the backend's domain", None),
    "foreign_maps_allowed_to_backend": ("of these mapped", 0),
    "grefs_probed": ("grant references attacked", None),
    "grefs_mapped_in_requests": ("mapped while their requests lived", None),
    "grefs_mappable_outside_requests": ("mapped outside of requests", 0),
    "bytes_outside_buffers": ("bytes seen outside of the described buffers", 0),
    "writable_beyond_requests": ("pages writable that were only to be read", 0),
    "reachable_after_kept_mapping": ("pages reachable though given back: mappings kept past their request", 0),
    "reachable_after_mediator_killed": ("pages reachable though given back: mediator killed", 0),
    "reachable_after_mediator_destroyed": ("pages reachable though given back: mediator's domain destroyed", 0),
    "guest_saw_kept_mapping": ("mappings kept: what the guest saw", None),
    "guest_saw_mediator_killed": ("mediator killed: what the guest saw", None),
    "guest_saw_mediator_destroyed": ("mediator's domain destroyed: what the guest saw", None),
    "zombie_domains": ("zombie domains", 0),
    "requests": ("requests", None),
    "bytes_zero_copy": ("bytes granted (zero copy)", None),
    "bytes_bounced": ("bytes copied (bounced)", None),
    "hypercalls_per_request": ("hypercalls of mediator and backend, per request", None),
    "maps_per_request": ("map calls of the backend, per request", None),
    "flushing_unmaps_per_request": ("flushing unmaps of the backend, per request", None),
    "notifications_per_request": ("notifications, all four ways, per request", None),
}


def run(topology: Topology, name: str, note: Note) -> dict[str, Any]:
    """Isolation with the user-space driver, then the whole disk job with the stock driver; returns the report."""
    machine = topology.machine
    image = f"{IMAGES}/disk.img"
    topology.backend.run(f"rm -f {image}; truncate -s {IMAGE_MIB}M {image}")
    isolation, ends = None, {}
    if topology.backend.domid != 0:  # in dom0 there is nobody to keep out
        note("attacking from the backend's domain, with requests alive and without")
        isolation = attack(topology, image)
        note("keeping mappings past their requests, and past the mediator's end")
        ends = watch(topology, image)
    note("attaching the disk to the guest's own driver")
    topology.load_module()
    device = topology.attach(image)
    before = topology.status(device)
    job = run_disk_job(topology, image, note)
    after = topology.status(device)
    note("detaching")
    topology.detach(device)
    topology.unload_module()
    version = machine.run("xl info | sed -n 's/^xen_version *: *//p'").stdout.strip()
    zombies = sum(not domain.strip("()") or domain == "(null)" for domain in machine.domains.list())
    report = {"hypervisor": f"Xen {version}", "topology": name, "zombie_domains": zombies}
    return report | _of_job(job) | _of_isolation(isolation) | _of_ends(ends) | _figures(before, after)


def _of_job(job: JobResult) -> dict[str, Any]:
    return asdict(job)


def _of_isolation(found: IsolationResult | None) -> dict[str, Any]:
    """All keys in any case: null where there was nobody to keep out."""
    if found is None:
        derived = ("foreign_maps_allowed_to_backend", "grefs_mapped_in_requests", "grefs_mappable_outside_requests")
        return dict.fromkeys([field.name for field in fields(IsolationResult)] + list(derived))
    return {
        **asdict(found),
        "foreign_maps_allowed_to_backend": found.foreign_maps_allowed,
        "grefs_mapped_in_requests": found.mapped_while_live,
        "grefs_mappable_outside_requests": found.mapped_when_idle + abs(found.mapped_while_live - found.window_in_use),
    }


def _of_ends(found: dict[str, Aftermath]) -> dict[str, Any]:
    """Likewise."""
    report: dict[str, Any] = {}
    for name in ("kept_mapping", "mediator_killed", "mediator_destroyed"):
        after = found.get(name)
        report[f"reachable_after_{name}"] = after and after.reachable
        report[f"guest_saw_{name}"] = after and after.guest_saw
        report[name] = after and asdict(after)
    return report


def _figures(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Counters of the disk job alone: what was counted while it ran."""
    grown = {key: after[key] - before.get(key, 0) for key in after if isinstance(after[key], int)}
    requests = grown["completions"]

    def per_request(*keys: str) -> float:
        return float(round(sum(grown[key] for key in keys) / requests, 4))

    return {
        "requests": requests,
        "bytes_zero_copy": grown["bytes_zero_copy"],
        "bytes_bounced": grown["bytes_bounced"],
        "hypercalls_per_request": per_request("mediator_hypercalls", "backend_hypercalls"),
        "maps_per_request": per_request("backend_grant_maps"),
        "flushing_unmaps_per_request": per_request("backend_grant_unmaps"),
        "notifications_per_request": per_request("kicks_received", "kicks_sent", "answers_received", "interrupts_sent"),
    }


def failures(report: dict[str, Any]) -> list[str]:
    """What did not come out as it must, in words."""
    return [
        f"{text}: {report[key]}"
        for key, (text, wanted) in ROWS.items()
        if wanted is not None and report[key] not in (wanted, None)
    ]


def write_json(reports: list[dict[str, Any]], path: Path) -> None:
    """Keeps the report for machines: that of the first topology, and all of them below `topologies`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**reports[0], "topologies": reports}, indent=2) + "\n")


def show(report: dict[str, Any], console: Console) -> None:
    """One topology's table."""
    table = Table(title=f"A stock Linux guest's disk on {report['hypervisor']}, topology {report['topology']}")
    table.add_column("what was tried")
    table.add_column("outcome", justify="right")
    for key, (text, wanted) in ROWS.items():
        value = report[key]
        if value is None:
            continue
        shown = {True: "yes", False: "NO"}.get(value, value) if isinstance(value, bool) else value
        shown = f"{shown:,}" if isinstance(shown, int) else str(shown)
        table.add_row(text, shown if wanted is None else f"[{'green' if value == wanted else 'bold red'}]{shown}[/]")
    table.caption = "in software emulation times say nothing; counts are those of any machine"
    console.print(table)
