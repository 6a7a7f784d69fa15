# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking back, from dom0, what mediators that are gone had granted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from xen_shadowvq.dom0 import MARKS, Dom0, Record, numbers
from xen_shadowvq.errors import ConfigError


@dataclass(frozen=True)
class SweptDevice:
    """The outcome for one device; `device` None: for grants whose device nobody knows any more."""

    frontend: int
    device: int | None
    mediator: int | None
    backend: int | None
    freed: int = 0
    held: int = 0
    refused: str | None = None
    """Why nothing was tried."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        found = asdict(self)
        return {**found, "held_pages": found.pop("held"), "held_by": self.backend if self.held else None}


def sweep(dom0: Dom0, frontend: int | None = None) -> Iterator[SweptDevice]:
    """
    Takes back what mediators that are gone had granted, for one guest or all, device by device. Tries nothing for a
    device whose mediator may be alive: that mediator does it itself when it starts.
    """
    for domid in _guests(dom0) if frontend is None else [frontend]:
        if not dom0.store.is_domain_introduced(domid):
            if frontend is None:
                continue  # it is just being destroyed, and its grants go with it
            raise ConfigError(f"there is no domain {domid}; `xl list` shows what there is")
        for record in dom0.records(domid):
            swept_device = _sweep_device(dom0, record)
            if swept_device is not None:
                yield swept_device
        with dom0.alone():
            used = {record.mark for record in dom0.records(domid)}
            swept = dom0.sweep(domid, [mark for mark in MARKS if mark not in used])
        if swept.freed or swept.held:
            yield SweptDevice(domid, None, None, None, swept.freed, swept.held)


def _guests(dom0: Dom0) -> list[int]:
    return [domid for domid in numbers(dom0.store, "/local/domain") if dom0.records(domid)]


def _sweep_device(dom0: Dom0, record: Record) -> SweptDevice | None:
    known = record.frontend, record.device, record.mediator, record.backend
    with dom0.alone():
        if dom0.record(record.frontend, record.device) != record:
            return None  # it was removed meanwhile
        if dom0.is_mediated(record):
            mediator = dom0.domain_name(record.mediator)
            return SweptDevice(*known, refused=f"domain {mediator} mediates it: its service takes back what is left")
        swept = dom0.sweep(record.frontend, [record.mark])
        if not swept.held:
            dom0.count_swept(record)
    return SweptDevice(*known, swept.freed, swept.held)
