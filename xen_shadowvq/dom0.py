# SPDX-License-Identifier: GPL-2.0-or-later
"""
What dom0 itself knows and can do: keeping records of the guests' devices, and taking back what was granted for one.

Decisions rest on these records and on the nodes of mediators and backends, never on nodes that a guest can write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from xen_shadowvq import engine
from xen_shadowvq.domain import hypervisor_socket, xenstore_socket
from xen_shadowvq.engine import Swept
from xen_shadowvq.errors import ConfigError, HypervisorError, shown
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.lockfile import locked
from xen_shadowvq.xenstore import Transaction, XenStore
from xenstore_schema import nodes

T = TypeVar("T")

RUN = Path("/run/shadowvq")
"""Where commands and the service `shadowvq guests` keep out of each other's way: the part of /run that both see."""

CONFLICTS_PATIENCE_S = 20.0
"""How long a command retries a transaction that conflicted with other commands, or with services at work."""

_CLAIMS = nodes.VirtioRecord.MEDIATOR_ID, nodes.VirtioRecord.BACKEND_ID, nodes.VirtioRecord.GRANT_MARK
MARKS = range(nodes.VirtioRecord.GRANT_MARK.low, nodes.VirtioRecord.GRANT_MARK.high + 1)


@dataclass(frozen=True)
class Declared:
    """What a device was attached for: the declaration's name, and a digest of what it said of the disk."""

    name: str
    digest: bytes


@dataclass(frozen=True)
class Record:
    """A device, as dom0 wrote it down when attaching it. The record exists as long as grants for the device may."""

    frontend: int
    device: int
    mediator: int
    backend: int
    mark: int
    attached: int
    """Which device of that number it is, counted from the first."""
    declared: Declared | None = None
    """None: it was attached by hand."""
    handle: int | None = None
    """The handle of its pair on leg 2."""

    @property
    def path(self) -> str:
        """Where the record is."""
        return nodes.virtio_record_path(frontend=self.frontend, device=self.device)

    @property
    def mediator_path(self) -> str:
        """The mediator's directory on leg 1."""
        return nodes.virtio_back_path(mediator=self.mediator, frontend=self.frontend, device=self.device)


class Dom0:
    """
    dom0's handles, as a context manager. The hypervisor is opened when it is first needed.

    Args:
        sim_directory: None on real Xen; else the embedded machine's.
        store: a connection to use, which stays open; None: one of its own.
    """

    def __init__(self, sim_directory: Path | None, store: XenStore | None = None) -> None:
        self._stack = ExitStack()
        self._sim = sim_directory
        self._hypervisor: Hypervisor | None = None
        socket = str(xenstore_socket(sim_directory, 0)) if sim_directory else None
        self.store = store or self._stack.enter_context(XenStore.connect(socket))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def alone(self, deadline: float | None = None) -> Iterator[None]:
        """
        Keeps other commands from changing records or taking anything back: between seeing who has which mark and acting
        on it, nobody else may give that mark to a new device. ConfigError: another command is still at work at the
        deadline.
        """
        with locked(self.run_directory() / "ctl.lock", deadline=deadline):
            yield

    def run_directory(self) -> Path:
        """A folder of dom0's own for locks and marks, which lasts until dom0 ends. ConfigError: it cannot be made."""
        folder = self._sim or RUN
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be made: {error.strerror}; `shadowvq ctl` runs as root") from error
        return folder

    def sweep(self, frontend: int, marks: Iterable[int]) -> Swept:
        """Takes back what was granted in a guest's table with these marks. A domain that is gone has no grants."""
        if self._hypervisor is None:
            socket = hypervisor_socket(self._sim, 0) if self._sim else None
            self._hypervisor = self._stack.enter_context(Hypervisor("mediator", socket))
        try:
            return engine.sweep(self._hypervisor, frontend, marks)
        except HypervisorError:
            if self.store.is_domain_introduced(frontend):
                raise
            return Swept(freed=0, held=0, holder=None)

    def in_transaction(self, work: Callable[[Transaction], T], deadline: float | None = None) -> T:
        """
        Like XenStore.in_transaction, with a command's patience: any number of commands may be at work at once. Its
        patience ends with the command's own deadline on the monotonic clock, as it may be a peer that interferes.
        """
        left_s = CONFLICTS_PATIENCE_S if deadline is None else max(0.0, deadline - time.monotonic())
        return self.store.in_transaction(work, patience_s=min(CONFLICTS_PATIENCE_S, left_s))

    # ---- records ---------------------------------------------------------------------------------------------------

    def record(self, frontend: int, device: int) -> Record | None:
        """The record of a device; None if there is none."""
        return _read(self.store, frontend, device)

    def records(self, frontend: int) -> list[Record]:
        """The records of all devices of a guest."""
        return read_records(self.store, frontend)

    def is_mediated(self, record: Record) -> bool:
        """Whether a mediator may still act on the device: whether its domain and its directory exist."""
        there = self.store.is_domain_introduced(record.mediator)
        return there and self.store.read(f"{record.mediator_path}/state") is not None

    def count_swept(self, record: Record) -> None:
        """Tells the guest that it has its buffers back."""
        node = nodes.VirtioRecord.SWEPT

        def work(t: Transaction) -> None:
            swept = (node.read(t.read, record.path) or 0) + 1
            t.write(node.path(record.path), node.format(swept % (node.high + 1)))

        self.in_transaction(work)

    def forget(self, record: Record) -> None:
        """
        The device is gone, and its mark is free. The rest of the record stays until the guest ends: a guest that reads
        `swept` late still learns that it has its buffers back, and a later device of the same number continues the
        count.
        """

        def work(t: Transaction) -> None:
            node = nodes.VirtioRecord
            for one in (node.GRANT_MARK, node.DECLARED_AS, node.DECLARED):
                t.rm(one.path(record.path))

        self.in_transaction(work)

    # ---- names -----------------------------------------------------------------------------------------------------

    def domid(self, domain: str) -> int:
        """
        The id of a domain given by id or name, as for `xl`: all digits are an id, which is not checked for existence.
        ConfigError: no domain has that name, or several have.
        """
        if domain.isdecimal():
            return int(domain)
        found = [domid for domid in numbers(self.store, "/local/domain") if self.name_of(domid) == domain]
        if not found:
            raise ConfigError(f"there is no domain called {shown(domain)}; `xl list` shows what there is")
        if len(found) > 1:
            ids = ", ".join(map(str, found))
            raise ConfigError(f"several domains are called {shown(domain)}: {ids}; say which by its id")
        return found[0]

    def name_of(self, domid: int) -> str | None:
        """The name that the toolstack gave it. None: there is no such domain, or it has no name."""
        return self.store.read(f"/local/domain/{domid}/name") or None

    def domain_name(self, domid: int) -> str:
        """Its id, and its name where it has one: for people."""
        return with_name(domid, self.name_of(domid))


def with_name(domid: int, name: str | None) -> str:
    """A domain's id, and its name where it has one: for people."""
    return f"{domid} ({name})" if name else str(domid)


def read_records(store: XenStore | Transaction, frontend: int) -> list[Record]:
    """The records of all devices of a guest."""
    found = [_read(store, frontend, number) for number in numbers(store, nodes.virtio_record_root(frontend=frontend))]
    return [record for record in found if record is not None]


def unfinished(store: XenStore | Transaction, frontend: int) -> dict[int, int]:
    """
    Devices of which only the backend still has its half: the backend's domain, by device number. If a mediator's half
    exists as well, the pair may belong to another device by now, so it does not count.
    """
    found = {}
    node = nodes.VirtioRecord
    for device in numbers(store, nodes.virtio_record_root(frontend=frontend)):
        path = nodes.virtio_record_path(frontend=frontend, device=device)
        mediator, backend, handle = (
            one.read(store.read, path) for one in (node.MEDIATOR_ID, node.BACKEND_ID, node.SVQ_HANDLE)
        )
        if mediator is None or backend is None or handle is None:
            continue
        if only_back_is_left(store, mediator, backend, handle):
            found[device] = backend
    return found


def only_back_is_left(store: XenStore | Transaction, mediator: int, backend: int, handle: int) -> bool:
    """Whether only a backend has not yet let go of a pair that nobody wants any more."""
    front = nodes.svq_front_path(mediator=mediator, handle=handle)
    back = nodes.svq_back_path(backend=backend, mediator=mediator, handle=handle)
    return store.read(f"{front}/state") is None and store.read(f"{back}/state") is not None


def numbers(store: XenStore | Transaction, path: str) -> list[int]:
    """The names in a directory that are numbers, sorted: domains, peers, devices, handles."""
    return sorted(int(name) for name in store.ls(path) if name.isdecimal())


def _read(store: XenStore | Transaction, frontend: int, device: int) -> Record | None:
    path = nodes.virtio_record_path(frontend=frontend, device=device)
    mediator, backend, mark = (node.read(store.read, path) for node in _CLAIMS)
    if mediator is None or backend is None or mark is None:
        return None
    vr = nodes.VirtioRecord
    attached = vr.ATTACHED.read(store.read, path) or 0
    name, digest = vr.DECLARED_AS.read(store.read, path), vr.DECLARED.read(store.read, path)
    declared = Declared(name, digest) if name is not None and digest is not None else None
    return Record(frontend, device, mediator, backend, mark, attached, declared, vr.SVQ_HANDLE.read(store.read, path))
