# SPDX-License-Identifier: GPL-2.0-or-later
"""What dom0 does: making and removing the two XenBus pairs of a device, and asking about them."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

from xen_shadowvq.devices import POLL_S, Attached, find, orphans, wait_until, who_holds
from xen_shadowvq.dom0 import (
    CONFLICTS_PATIENCE_S,
    MARKS,
    Declared,
    Dom0,
    Record,
    numbers,
    read_records,
    unfinished,
)
from xen_shadowvq.errors import ConfigError, XenStoreError
from xen_shadowvq.new_device import Disk, NewDevice
from xen_shadowvq.publish import rewrite
from xen_shadowvq.xenstore import Transaction
from xenstore_schema import State, nodes

T = TypeVar("T")

TAKE_AWAY_S = 4.0
"""How long removing a device that came to nothing may take, however short its own timeout was."""

_OFFERED = {"InitWait", "Initialised", "Connected"}  # the mediator's states


def attach(
    dom0: Dom0,
    *,
    frontend: int,
    mediator: int,
    backend: int,
    disk: Disk,
    device: int | None = None,
    declared: Declared | None = None,
    patience_s: float = CONFLICTS_PATIENCE_S,
) -> int:
    """
    Makes both pairs, all nodes in one transaction, and returns the device id. Before that, it takes back whatever was
    granted in the guest's table with marks that none of its devices has: the new device gets one of those. `declared`
    is noted in dom0's record, for `apply`. `patience_s`: how long it tries again while others interfere.

    ConfigError: a domain does not exist, the device id is taken, or a value is not allowed.
    """
    store = dom0.store
    for role, domid in (("frontend", frontend), ("mediator", mediator), ("backend", backend)):
        if store.read(f"/local/domain/{domid}/domid") is None and domid != 0:
            raise ConfigError(f"{role}: there is no domain {domid}")

    def try_it() -> int:
        tidy(dom0, frontend)
        mark = _free_mark(dom0, frontend)
        going = _handles_in_records(dom0, mediator)

        def work(t: Transaction) -> int:
            number = _free_number(dom0, t, frontend, mediator, device)
            handles = going | _taken_handles(t, mediator, backend)
            handle = next(i for i in range(1 << 31) if i not in handles)
            NewDevice(frontend, mediator, backend, number, handle, mark, disk, declared).write(dom0, t)
            return number

        return store.in_transaction(work)

    return _alone_by_turns(dom0, try_it, patience_s)


def _alone_by_turns(dom0: Dom0, work: Callable[[], T], patience_s: float) -> T:
    """
    Does work within `dom0.alone`, some of it in a transaction with which a peer can interfere as often as it likes:
    others have their turn before it is tried again. XenStoreError EAGAIN: the peer interfered all that time.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with dom0.alone():
                return work()
        except XenStoreError as error:
            if error.errno != errno.EAGAIN or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(POLL_S, 10 * POLL_S))  # noqa: S311


def _free_number(dom0: Dom0, t: Transaction, frontend: int, mediator: int, wanted: int | None) -> int:
    """
    A device id of which nothing is left on either leg: neither of a device whose guest removed its own nodes, nor of
    one that the backend is still closing. ConfigError: the wanted id is not free.
    """
    roots = (nodes.virtio_front_root(frontend=frontend), f"{nodes.virtio_back_root(mediator=mediator)}/{frontend}")
    taken = {number for root in roots for number in numbers(t, root)}
    taken |= {record.device for record in read_records(t, frontend)}
    closing = unfinished(t, frontend)
    if wanted is None:
        return next(i for i in range(1 << 16) if i not in taken and i not in closing)
    name = dom0.domain_name(frontend)
    if wanted in taken:
        raise ConfigError(f"domain {name} has a device {wanted} already")
    if wanted in closing:
        backend = dom0.domain_name(closing[wanted])
        raise ConfigError(
            f"an earlier device {wanted} of domain {name} is still closing in the backend domain {backend}"
        )
    return wanted


def _taken_handles(t: Transaction, mediator: int, backend: int) -> set[int]:
    """Handles of pairs of which a half is left, even if only because the backend has not let go yet."""
    roots = (nodes.svq_front_root(mediator=mediator), f"{nodes.svq_back_root(backend=backend)}/{mediator}")
    return {number for root in roots for number in numbers(t, root)}


def _handles_in_records(dom0: Dom0, mediator: int) -> set[int]:
    """Handles of devices that dom0 has not done with: whoever detaches one is about to remove what is there."""
    guests = numbers(dom0.store, "/local/domain")
    records = (record for guest in guests for record in dom0.records(guest) if record.mediator == mediator)
    return {record.handle for record in records if record.handle is not None}


def _free_mark(dom0: Dom0, frontend: int) -> int:
    """A mark for grant entries that no device of the frontend has, and with which no page is held."""
    used = {record.mark for record in dom0.records(frontend)}
    free = [mark for mark in MARKS if mark not in used]
    if free and dom0.sweep(frontend, free).held:
        free = [mark for mark in free if not dom0.sweep(frontend, [mark]).held]
    if not free:
        name = dom0.domain_name(frontend)
        raise ConfigError(f"domain {name} has {len(MARKS)} devices already, which is as many as it can have")
    return free[0]


def tidy(dom0: Dom0, frontend: int | None = None) -> None:
    """
    Removes what is left of devices that their mediators have removed: those that were not closed in time when they were
    detached. It does not touch grants of a device whose mediator's domain is gone: `ctl sweep` takes those back. Call
    it within `dom0.alone`.
    """
    for record in list(orphans(dom0, frontend)):
        if dom0.store.is_domain_introduced(record.mediator) and not dom0.sweep(record.frontend, [record.mark]).held:
            dom0.count_swept(record)
            _remove(dom0, find(dom0, record.frontend, record.device), record)


def detach(dom0: Dom0, frontend: int, device: int, timeout_s: float) -> None:
    """
    Has the mediator close the device, waits for that, and removes what is left of both pairs. If the mediator is gone,
    this takes back what it had granted.

    ConfigError: there is no such device; or it was not closed in time, because a backend keeps pages of it mapped (then
    it is removed as soon as they are free), or because the mediator does not answer. The nodes are left for inspection.
    """
    deadline = time.monotonic() + timeout_s
    found = find(dom0, frontend, device)
    record = dom0.record(frontend, device)
    if not found.orphaned:
        rewrite(dom0.store, found.path, online="0")
        if not wait_until(lambda: _is_over(dom0, found), timeout_s):
            raise ConfigError(_why_not_closed(dom0, find(dom0, frontend, device), timeout_s))
    if record is not None:
        _take_back(dom0, found, record, deadline)
    else:
        with dom0.alone(deadline):
            if dom0.record(frontend, device) is None:  # else it has been attached again meanwhile
                _remove(dom0, found, None)
    if (handle := _handle_of(found, record)) is None:
        return
    # `_remove` has written 0 there; once the backend has let go, the node is gone, or another device's.
    back = nodes.svq_back_path(backend=found.backend, mediator=found.mediator, handle=handle)
    left_s = max(POLL_S, deadline - time.monotonic())
    if not wait_until(lambda: dom0.store.read(f"{back}/online") != "0", left_s):
        name = dom0.domain_name(found.backend)
        raise ConfigError(f"backend domain {name} did not let go of {back} within {timeout_s:g} s")


def wait_offered(dom0: Dom0, frontend: int, device: int, timeout_s: float) -> None:
    """
    Waits until the device is offered to the frontend. ConfigError: why it cannot be; the device is then removed again.
    """
    latest = find(dom0, frontend, device)

    def settled() -> bool:
        nonlocal latest
        latest = find(dom0, frontend, device)
        return latest.error is not None or latest.state in _OFFERED

    reason = None
    if not wait_until(settled, timeout_s):
        reason = (
            f"device {device} of domain {dom0.domain_name(frontend)}: nobody took it up within {timeout_s:g} s "
            f"(mediator {latest.state}, backend {latest.backend_state}); are both services running?"
        )
    if reason := latest.error or reason:
        try:
            abandon(dom0, frontend, device, max(timeout_s, TAKE_AWAY_S))
        except ConfigError as error:
            raise ConfigError(reason, *error.problems) from error
        raise ConfigError(reason)


def abandon(dom0: Dom0, frontend: int, device: int, timeout_s: float) -> None:
    """
    Removes a device that came to nothing. If it was never offered to the frontend, nothing was ever granted for it, so
    nobody has to close it, and it can be removed even if no service runs. ConfigError: as from `detach`.
    """
    record = dom0.record(frontend, device)
    found = find(dom0, frontend, device)
    if record is None or found.handle is None or not found.is_mediated:
        detach(dom0, frontend, device, timeout_s)
        return
    halves = (found.path, nodes.svq_front_path(mediator=found.mediator, handle=found.handle), found.backend_path)

    def work(t: Transaction) -> bool:
        """It is then never offered: a mediator that was about to do so finds nothing, and removes what it wrote."""
        if t.read(f"{found.path}/state") != str(int(State.Initialising)):
            return False
        for half in halves:
            t.rm(half)
        return True

    with dom0.alone():
        if dom0.record(frontend, device) == record and dom0.store.in_transaction(work):
            timeout_s = 0.0
    detach(dom0, frontend, device, timeout_s)


def _is_over(dom0: Dom0, found: Attached) -> bool:
    gone = dom0.store.read(f"{found.path}/state") is None
    return gone or not dom0.store.is_domain_introduced(found.mediator)


def _why_not_closed(dom0: Dom0, found: Attached, timeout_s: float) -> str:
    frontend, mediator = dom0.domain_name(found.frontend), dom0.domain_name(found.mediator)
    closing = f"device {found.device} of domain {frontend} is still closing after {timeout_s:g} s"
    if found.held_pages:
        return (
            f"{closing}: {who_holds(dom0, found.held_pages, found.held_by)}. The device is removed as soon as they are "
            "free; `shadowvq ctl list` then tidies up"
        )
    late = f"mediator's service in domain {mediator}"
    if found.state in {"Closing", "Closed"}:  # it has answered
        late = f"backend's service in domain {dom0.domain_name(found.backend)}"
    why = found.error or f"is the {late} running?"
    return f"{closing} (mediator {found.state}, backend {found.backend_state}): {why}"


def _take_back(dom0: Dom0, found: Attached, record: Record, deadline: float) -> None:
    """
    Makes sure that nothing is granted for a device that nobody mediates, and removes it. ConfigError: a page of it was
    held all that time.
    """
    frontend = dom0.domain_name(record.frontend)
    while True:
        with dom0.alone(deadline):
            if dom0.record(record.frontend, record.device) != record:
                return  # another command has removed it
            if dom0.is_mediated(record):
                raise ConfigError(f"device {record.device} of domain {frontend} is mediated again; try again")
            swept = dom0.sweep(record.frontend, [record.mark])
            if not swept.held:
                dom0.count_swept(record)
                _remove(dom0, found, record)
                return
        if time.monotonic() >= deadline:
            raise ConfigError(
                f"device {record.device} of domain {frontend} cannot be removed: "
                f"{who_holds(dom0, swept.held, record.backend)}; then detach it again"
            )
        time.sleep(POLL_S)


def _handle_of(found: Attached, record: Record | None) -> int | None:
    """The handle of the pair on leg 2, by dom0's own record if there is one. None: dom0 never knew it."""
    return record.handle if record else found.handle


def _remove(dom0: Dom0, found: Attached, record: Record | None) -> None:
    """
    Removes what is left of a device that nobody mediates and for which nothing is granted. The record goes last.

    The backend is told to let go in its own directory: a mediator that keeps its half, or makes it again, must not keep
    the image.
    """
    store = dom0.store
    store.rm(found.path)
    if (handle := _handle_of(found, record)) is not None:
        back = nodes.svq_back_path(backend=found.backend, mediator=found.mediator, handle=handle)
        rewrite(store, back, online="0")
        store.rm(nodes.svq_front_path(mediator=found.mediator, handle=handle))
    store.rm(nodes.virtio_front_path(frontend=found.frontend, device=found.device))
    if record is not None:
        dom0.forget(record)
