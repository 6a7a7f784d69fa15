# SPDX-License-Identifier: GPL-2.0-or-later
"""
The rule, watched from dom0 while everything else goes on: when a guest has been told that it has its buffers back, no
entry that a mediator made in its grant table lets anybody at a page.

What the guests' kernels have given away nobody but they know, so it is their word that counts here: a state of leg 1, a
sweep that dom0 has counted. A look at the table and a look at XenStore are never the same moment; what is found counts
only if XenStore said the same before and after, and no state was written in between.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

from xen_shadowvq.errors import HypervisorError, XenStoreError
from xen_shadowvq.hypervisor import Hypervisor, grants_per_frame
from xen_shadowvq.native import load
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import State, nodes

PAUSE_S = 0.5  # a look takes the better part of a tenth of a second there
FOUND_MAX = 8192  # most of what is open is the guest's own
ENTRY_BYTES = 8
MARK_SHIFT, MARK_MASK = 9, 127
# After Closed, until the next offer stands.
BACK_STATES = {str(int(State.Closed)), str(int(State.Initialising))}


@dataclass(frozen=True)
class Claim:
    """What a guest has been told of one of its devices, and how often it was told anything."""

    device: int
    attached: int
    swept: int
    state: str | None
    news: int


class RuleObserver:
    """Looks on a thread of its own; `take` returns what it found."""

    def __init__(self) -> None:
        self._hypervisor = Hypervisor("mediator", None)
        self._store = XenStore.connect(None)
        self._audit = load("driver")  # for its look through a table alone
        self._breaches = self._audit.ffi.new("struct svq_breach[]", FOUND_MAX)
        self._watched: set[str] = set()
        self._news: Counter[str] = Counter()
        self._swept_before: dict[tuple[int, int, int], int] = {}
        self._found: list[str] = []
        self._looks = self._open_max = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def take(self) -> dict[str, Any]:
        """What was found since the last time, after a last look; how often it looked, the most entries open at once."""
        with self._lock:
            self._look()
            found, self._found = self._found, []
            return {"found": found, "looks": self._looks, "open_max": self._open_max}

    def plant(self, domid: int, entry: int) -> int:
        """Writes an entry into a guest's table, at the end, to see that it is found, and takes it away; its gref."""
        with GrantTable(self._hypervisor, domid) as table:
            gref = max(i for i in range(len(table) - grants_per_frame(), len(table)) if table[i] == 0)
            with self._lock:
                table[gref] = entry
                self._look()
                table[gref] = 0
        return gref

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(PAUSE_S):
            with self._lock:
                self._look()

    def _look(self) -> None:
        self._looks += 1
        for name in self._store.ls("/local/domain"):
            domid = int(name)
            before = self._claims(domid)
            if before is None:
                continue
            try:
                entries = self._open_entries(domid)
            except HypervisorError:  # it is being destroyed
                continue
            after = self._claims(domid) or {}
            self._open_max = max(self._open_max, len(entries))
            for gref, entry in entries:
                mark = entry >> MARK_SHIFT & MARK_MASK
                claim = before.get(mark)
                if mark and claim == after.get(mark) and (why := self._breach(domid, claim)):
                    self._found.append(f"domain {domid}: entry {gref} is {entry:#x}, and {why}")

    def _breach(self, domid: int, claim: Claim | None) -> str | None:
        if claim is None:
            return "no device has such a mark"
        if claim.state in BACK_STATES:
            return f"device {claim.device} is in state {claim.state}"
        if claim.state is None and claim.swept > self._swept_before.get((domid, claim.device, claim.attached), 1 << 32):
            return f"device {claim.device} has been swept"
        return None

    def _claims(self, domid: int) -> dict[int, Claim] | None:
        """The claims on a domain's table by mark; None: the domain has no device of ours."""
        root = nodes.virtio_record_root(frontend=domid)
        try:
            devices = [int(name) for name in self._store.ls(root)]
        except XenStoreError:
            return None
        claims = [claim for device in devices if (claim := self._claim(domid, device))]
        return dict(claims) if devices else None

    def _claim(self, domid: int, device: int) -> tuple[int, Claim] | None:
        record, read = nodes.VirtioRecord, self._store.read
        path = nodes.virtio_record_path(frontend=domid, device=device)
        mediator, mark = record.MEDIATOR_ID.read(read, path), record.GRANT_MARK.read(read, path)
        if mediator is None or mark is None:
            return None  # it is detached: what is left of it is the count
        attached, swept = record.ATTACHED.read(read, path) or 0, record.SWEPT.read(read, path) or 0
        state_path = f"{nodes.virtio_back_path(mediator=mediator, frontend=domid, device=device)}/state"
        self._watch(f"/local/domain/{mediator}/backend/virtio")
        state = read(state_path)
        if state is not None:
            self._swept_before[domid, device, attached] = swept
        self._hear()
        return mark, Claim(device, attached, swept, state, self._news[state_path])

    def _watch(self, path: str) -> None:
        if path not in self._watched:
            self._store.watch(path, path)
            self._watched.add(path)

    def _hear(self) -> None:
        while (event := self._store.next_event(timeout_ms=0)) is not None:
            self._news[event.path] += 1

    def _open_entries(self, domid: int) -> list[tuple[int, int]]:
        lib, new = self._audit.lib, self._audit.ffi.new
        with GrantTable(self._hypervisor, domid) as table:
            opened = new("size_t *")
            words = self._audit.ffi.from_buffer("uint64_t[]", table)
            audit = new("struct svq_audit *", {"table": words, "entries": len(table)})
            count = lib.svq_ledger_audit(audit, self._breaches, FOUND_MAX, opened)
            return [(int(one.gref), int(one.entry)) for one in self._breaches[0 : min(int(count), FOUND_MAX)]]


class GrantTable:
    """
    A guest's whole grant table, a word for each entry, mapped as a context manager for no longer than a look: a guest
    may die any time. HypervisorError: it is dying.
    """

    def __init__(self, hypervisor: Hypervisor, domid: int) -> None:
        self._hypervisor, self._domid = hypervisor, domid
        self._token = hypervisor.library.ffi.new("void **")

    def __enter__(self) -> memoryview[int]:
        library, handle = self._hypervisor.library, self._hypervisor.handle
        frames, va = library.ffi.new("uint32_t *"), library.ffi.new("void **")
        rc = library.lib.svq_hv_grant_table_frames(handle, self._domid, frames)
        library.check(rc, "grant_table_frames", self._domid)
        rc = library.lib.svq_hv_map_grant_table(handle, self._domid, 0, frames[0], va, self._token)
        library.check(rc, "map_grant_table", self._domid)
        entries = frames[0] * grants_per_frame()
        return memoryview(library.ffi.buffer(va[0], entries * ENTRY_BYTES)).cast("B").cast("Q")

    def __exit__(self, *_: object) -> None:
        self._hypervisor.library.lib.svq_hv_unmap_grant_table(self._hypervisor.handle, self._token[0])
