# SPDX-License-Identifier: GPL-2.0-or-later
"""
The rule, watched all the time: at no moment can a page be reached that no request describes which its driver has given
away. Whatever a test does meanwhile, crashes and restarts included, a breach fails it. And as long as a page is kept
mapped, nobody says that its driver has it back.

To map a grant is to disturb it: a request whose page somebody else has mapped when it ends breaks its device. So the
observer looks at what the hypervisor goes by, the frontends' grant tables, and at the drivers' ledgers (svq_ledger.h
says why what it finds is no race). What it finds is then mapped for the proof, from within the domain that has it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from dom0_backend.probe import Prober
from domU_frontend.ledger import Ledger
from xen_shadowvq.domain import hypervisor_socket
from xen_shadowvq.embedded.machine import Machine
from xen_shadowvq.errors import ShadowVQError
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.native import load
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes

PAUSE_S = 0.001
NEWS_S = 0.1  # the time stamps of a directory are that coarse, with room to spare
BREACHES_MAX = 64
TOLD_MAX = 8
PAGE = 4096
BACK_SHIFT, CHANGES_SHIFT = 36, 40
READING = 1 << 3
CLOSED = "6"
SINCE = (
    "which its driver never gave away",
    "which its driver has had back since a used entry",
    "which its driver has had back since its queue was reset",
    "which its driver has had back since its request was not among those with held pages",
    "which its driver has had back since Closed",
    "which its driver has had back since it was swept",
    "which its driver has had back since its device was removed",
    "which its driver has had back since the last offer",
)


@dataclass
class _Guest:
    """A domain whose table is looked at, and its drivers' ledgers by their files."""

    memory: Any  # buffers, which keep what they are of mapped
    table: Any
    ledgers: dict[tuple[str, int], Ledger] = field(default_factory=dict)
    seen_ns: int = -1


@dataclass(frozen=True)
class _Kept:
    """A page that the domain `keeper` has mapped, of a device's driver."""

    keeper: int
    guest: int
    gref: int
    frame: int
    device: int
    state_path: str
    swept_path: str
    swept: int


class Observer:
    """Looks at all domains of a machine on a thread of its own, as a context manager; `take` returns what it found."""

    def __init__(self, machine: Machine) -> None:
        self.exact = self.clears = True  # what is promised; a test may have it otherwise
        self._machine = machine
        self._library = load("driver")
        self._breaches = self._library.ffi.new("struct svq_breach[]", BREACHES_MAX)
        self._guests: dict[int, _Guest] = {}
        self._lock = threading.RLock()
        self._found: list[str] = []
        self._told: set[tuple[int, ...]] = set()
        self._ending = threading.Event()
        self._store: XenStore | None = None
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._kept: list[_Kept] = []
        self._guests_own: set[tuple[int, int]] = set()
        self.looks = self.open_max = 0  # open_max: entries that were open at once, most of all looks

    def __enter__(self) -> Observer:
        self._store = XenStore.connect(str(self._machine.directory / "xenstore-dom0.sock"))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        if self._store:
            self._store.close()

    def add(self, domid: int) -> None:
        """A new domain, perhaps under the id of one that died."""
        with self._lock:
            for path in self._machine.directory.glob(f"ledger-{domid}-*"):
                path.unlink()
            self._guests_own = {own for own in self._guests_own if own[0] != domid}
            memory, table = self._machine.look_into(domid)
            from_buffer = self._library.ffi.from_buffer
            self._guests[domid] = _Guest(from_buffer("uint8_t[]", memory), from_buffer("uint64_t[]", table))

    def removed(self, domid: int, device: int) -> None:
        """The device was detached: its driver has everything back, even if it has ended since."""
        with contextlib.suppress(FileNotFoundError):
            Ledger.open(self._machine.directory / f"ledger-{domid}-{device}").take_back("REMOVED")

    def is_guests_own(self, domid: int, gref: int) -> None:
        """The guest's kernel, and no mediator, writes to that entry from now on."""
        with self._lock:
            self._guests_own.add((domid, gref))

    def keeps(self, keeper: int, domid: int, gref: int) -> None:
        """The domain `keeper` keeps a page mapped from now on, which belongs to a request."""
        with self._lock:
            guest, store = self._guests[domid], self._store
            assert store is not None
            self._find_ledgers(domid, guest)
            frame = int(guest.table[gref]) >> 32
            device = next(
                int(name.split("-")[-1])
                for (name, _), ledger in guest.ledgers.items()
                if 0 <= frame - ledger.handle.page[0].gfn < ledger.handle.pages
            )
            back = store.read(f"{nodes.virtio_front_path(frontend=domid, device=device)}/backend")
            swept = f"{nodes.virtio_record_path(frontend=domid, device=device)}/swept"
            kept = _Kept(keeper, domid, gref, frame, device, f"{back}/state", swept, int(store.read(swept) or 0))
            self._kept.append(kept)

    def lets_go(self, keeper: int) -> None:
        """It is about to unmap all that it keeps."""
        with self._lock:
            self._kept = [kept for kept in self._kept if kept.keeper != keeper]

    def look(self) -> None:
        """Looks at every table once more."""
        with self._lock:
            for domid in list(self._guests):
                self._look_at(domid)
            for kept in list(self._kept):
                self._look_at_kept(kept)
            self.looks += 1

    def take(self) -> list[str]:
        """What was found since the last time, a sentence each, after a last look."""
        self.look()
        with self._lock:
            found, self._found = self._found, []
        return found

    @property
    def found(self) -> list[str]:
        """What was found since it was last taken."""
        return list(self._found)

    def _run(self) -> None:
        while not self._ending.wait(PAUSE_S):
            self.look()

    def _look_at(self, domid: int) -> None:
        guest = self._guests[domid]
        self._find_ledgers(domid, guest)
        if not guest.ledgers or self._machine.state(domid) != "running":
            return
        count = self._audit(guest)
        nobodys = self._library.lib.SVQ_BREACH_NOBODYS
        if count and any(self._breaches[i].kind == nobodys for i in range(min(count, BREACHES_MAX))):
            guest.seen_ns = -1  # perhaps a ledger came after we looked for it
            self._find_ledgers(domid, guest)
            count = self._audit(guest)
        for breach in self._breaches[0 : min(count, BREACHES_MAX)]:
            if (domid, int(breach.gref)) not in self._guests_own:
                self._note(domid, guest, breach)

    def _audit(self, guest: _Guest) -> int:
        new = self._library.ffi.new
        ledgers = new("struct svq_ledger *[]", [ledger.handle for ledger in guest.ledgers.values()])
        audit = new("struct svq_audit *", {"table": guest.table, "entries": len(guest.table), "ledgers": ledgers})
        audit.ledgers_count, audit.exact = len(ledgers), self.exact
        audit.memory = guest.memory if self.clears else self._library.ffi.NULL
        opened = new("size_t *")
        count = self._library.lib.svq_ledger_audit(audit, self._breaches, BREACHES_MAX, opened)
        self.open_max = max(self.open_max, int(opened[0]))
        return int(count)

    def _look_at_kept(self, kept: _Kept) -> None:
        assert self._store is not None
        entry = int(self._guests[kept.guest].table[kept.gref])
        as_it_was = entry >> 32 == kept.frame and entry & READING
        known = as_it_was or (kept.guest, kept.gref) in self._guests_own
        wrong = [] if known else [f"its entry is {entry:#x}"]
        if self._store.read(kept.state_path) == CLOSED:
            wrong.append("the device is Closed")
        if int(self._store.read(kept.swept_path) or 0) > kept.swept:
            wrong.append("dom0 says that it is swept")
        if wrong and all(self._machine.state(domid) == "running" for domid in (kept.keeper, kept.guest)):
            self.report(
                f"domain {kept.keeper} keeps frame {kept.frame:#x} of domain {kept.guest} mapped, of a request of "
                f"device {kept.device}, through grant reference {kept.gref}, and yet {', '.join(wrong)}"
            )
        if wrong:
            self._kept.remove(kept)

    def _find_ledgers(self, domid: int, guest: _Guest) -> None:
        directory = self._machine.directory
        changed_ns = directory.stat().st_mtime_ns
        if changed_ns == guest.seen_ns:
            return
        if time.time_ns() - changed_ns > NEWS_S * 1e9:
            guest.seen_ns = changed_ns
        known, guest.ledgers = guest.ledgers, {}
        for path in directory.glob(f"ledger-{domid}-*[0-9]"):
            key = (path.name, path.stat().st_ino)
            guest.ledgers[key] = known[key] if key in known else Ledger.open(path)

    def _note(self, domid: int, guest: _Guest, breach: Any) -> None:
        lib = self._library.lib
        key = (domid, int(breach.gref), breach.entry >> 32, int(breach.kind), int(breach.state) >> CHANGES_SHIFT)
        if key in self._told:
            return
        self._told.add(key)
        frame, grantee = breach.entry >> 32, breach.entry >> 16 & 0xFFFF
        device = list(guest.ledgers)[breach.ledger][0].split("-")[-1]
        how = {
            lib.SVQ_BREACH_NOT_GIVEN: f"of device {device}, {SINCE[breach.state >> BACK_SHIFT & 15]},",
            lib.SVQ_BREACH_NOT_SO: f"of device {device}, which its driver has given away to be read only,",
            lib.SVQ_BREACH_OLD_CONTENT: f"of device {device}, given away to be written, with what its driver had there",
            lib.SVQ_BREACH_NOBODYS: "which no driver has",
        }[breach.kind]
        self.report(
            f"frame {frame:#x} of domain {domid} {how} is open to domain {grantee} through grant reference "
            f"{breach.gref} (entry {breach.entry:#x}); {self._prove(grantee, domid, int(breach.gref))}; "
            f"leg 1: {self._legs(domid)}"
        )

    def report(self, sentence: str) -> None:
        """A breach, whoever saw it."""
        if len(self._found) < TOLD_MAX:
            self._found.append(sentence)

    def _prove(self, grantee: int, domid: int, gref: int) -> str:
        """What the grantee gets when it maps it now."""
        try:
            with Hypervisor("backend", hypervisor_socket(self._machine.directory, grantee)) as hypervisor:
                prober = Prober(hypervisor)
                ways = []
                for writable in (False, True):
                    page = prober.map(domid, gref, writable=writable)
                    if page is not None:
                        content = bytes(hypervisor.library.ffi.buffer(page, 16))
                        prober.unmap(page)
                        ways.append(f"{'writable' if writable else 'read-only'} (it begins with {content!r})")
        except ShadowVQError as error:
            return f"domain {grantee} cannot be asked to map it: {error}"
        return (
            f"domain {grantee} could map it {' and '.join(ways)}" if ways else "a moment later it was not open any more"
        )

    def _legs(self, domid: int) -> str:
        root, store = nodes.virtio_front_root(frontend=domid), self._store
        if store is None:
            return "unknown"
        states = {device: store.read(f"{store.read(f'{root}/{device}/backend')}/state") for device in store.ls(root)}
        return ", ".join(f"device {device} in state {state}" for device, state in states.items()) or "no device"


def sentences(found: list[str]) -> str:
    """The failure of a test."""
    return "\n".join([f"the observer found {len(found)} breach(es) of the rule:", *found])
