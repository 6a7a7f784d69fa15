# SPDX-License-Identifier: GPL-2.0-or-later
"""The nodes of a device that is being attached: dom0's record, and both halves of both pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xen_shadowvq.dom0 import Declared, Dom0
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.publish import Entry
from xen_shadowvq.xenstore import Transaction
from xenstore_schema import nodes
from xenstore_schema.spec import Directory, Node


@dataclass(frozen=True)
class Disk:
    """A disk to attach. `image` is a path in the backend's domain; None leaves it to the mediator's configuration."""

    image: str
    read_only: bool = False
    direct_io: bool = False
    queues: int = 1
    serial: str | None = None
    placement: str | None = None
    copy_threshold: int | None = None
    shareable: bool = False
    """Others may write to the image at the same time."""


@dataclass(frozen=True)
class NewDevice:
    """A device with the numbers that it gets. `declared` is noted in dom0's record, for `apply`."""

    frontend: int
    mediator: int
    backend: int
    device: int
    handle: int
    mark: int
    disk: Disk
    declared: Declared | None

    @property
    def _virtio_back(self) -> str:
        return nodes.virtio_back_path(mediator=self.mediator, frontend=self.frontend, device=self.device)

    @property
    def _virtio_front(self) -> str:
        return nodes.virtio_front_path(frontend=self.frontend, device=self.device)

    @property
    def _svq_back(self) -> str:
        return nodes.svq_back_path(backend=self.backend, mediator=self.mediator, handle=self.handle)

    @property
    def _svq_front(self) -> str:
        return nodes.svq_front_path(mediator=self.mediator, handle=self.handle)

    def write(self, dom0: Dom0, t: Transaction) -> None:
        """Writes all of them. ConfigError: a value is not allowed, or the toolstack's own nodes are missing."""
        self._make_parents(dom0, t)
        self._write_record(t)
        self._write_leg2(t)
        self._write_leg1(t)

    def _make_parents(self, dom0: Dom0, t: Transaction) -> None:
        for path, owner, reader in (
            (self._svq_back, self.backend, self.mediator),
            (self._virtio_back, self.mediator, self.frontend),
        ):
            peers_directory = path.rpartition("/")[0]  # its owner removes it with the peer's last device
            t.mkdir(peers_directory)
            t.set_perms(peers_directory, _perms(owner, reader))
        for root, reader in (
            (nodes.svq_front_root(mediator=self.mediator), self.backend),
            (nodes.virtio_front_root(frontend=self.frontend), self.mediator),
            # dom0's own: the mediator sees by these whether the two domains are still there
            (nodes.virtio_record_root(frontend=self.frontend), self.mediator),
            (nodes.virtio_record_root(frontend=self.backend), self.mediator),
        ):
            _make_readable(dom0, t, root, reader)

    def _write_record(self, t: Transaction) -> None:
        vr, declared = nodes.VirtioRecord, self.declared
        record = nodes.virtio_record_path(frontend=self.frontend, device=self.device)
        name, digest = (declared.name, declared.digest) if declared else (None, None)
        swept, attached = (node.read(t.read, record) or 0 for node in (vr.SWEPT, vr.ATTACHED))  # of earlier ones
        _write_dir(t, nodes.VIRTIO_RECORD, record, 0, self.frontend, [
            (vr.MEDIATOR_ID, self.mediator), (vr.BACKEND_ID, self.backend), (vr.SVQ_HANDLE, self.handle),
            (vr.GRANT_MARK, self.mark), (vr.SWEPT, swept), (vr.ATTACHED, (attached + 1) % (vr.ATTACHED.high + 1)),
            *_optional((vr.DECLARED_AS, name), (vr.DECLARED, digest)),
        ])  # fmt: skip

    def _write_leg2(self, t: Transaction) -> None:
        sb, sf, disk = nodes.SvqBack, nodes.SvqFront, self.disk
        _write_dir(t, nodes.SVQ_BACK, self._svq_back, self.backend, self.mediator, [
            (sb.FRONTEND, self._svq_front), (sb.FRONTEND_ID, self.mediator), (sb.ONLINE, True), (sb.TYPE, "blk"),
            (sb.PARAMS, disk.image), (sb.MODE, "r" if disk.read_only else "w"), (sb.DIRECT_IO, disk.direct_io),
            (sb.QUEUES, disk.queues), (sb.WINDOW_OWNER, self.frontend),
            *_optional((sb.SERIAL, disk.serial), (sb.SHAREABLE, disk.shareable or None)),
        ])  # fmt: skip
        _write_dir(t, nodes.SVQ_FRONT, self._svq_front, self.mediator, self.backend, [
            (sf.BACKEND, self._svq_back), (sf.BACKEND_ID, self.backend),
        ], disk.queues)  # fmt: skip

    def _write_leg1(self, t: Transaction) -> None:
        vb, vf, disk = nodes.VirtioBack, nodes.VirtioFront, self.disk
        memory, balloons = _memory_kib(t, self.frontend), _may_balloon(t, self.frontend)
        _write_dir(t, nodes.VIRTIO_BACK, self._virtio_back, self.mediator, self.frontend, [
            (vb.FRONTEND, self._virtio_front), (vb.FRONTEND_ID, self.frontend), (vb.ONLINE, True),
            (vb.SVQ_HANDLE, self.handle), (vb.FRONTEND_MEMORY, memory), (vb.FRONTEND_BALLOONS, balloons),
            (vb.GRANT_MARK, self.mark), (vb.QUEUES, disk.queues),
            *_optional((vb.PLACEMENT, disk.placement), (vb.COPY_THRESHOLD, disk.copy_threshold)),
        ], disk.queues)  # fmt: skip
        _write_dir(t, nodes.VIRTIO_FRONT, self._virtio_front, self.frontend, self.mediator, [
            (vf.BACKEND, self._virtio_back), (vf.BACKEND_ID, self.mediator),
        ], disk.queues)  # fmt: skip


def _make_readable(dom0: Dom0, t: Transaction, path: str, reader: int) -> None:
    """
    Makes the directory if need be. A domain that may not read what it watches does not hear of its end (XSA-115).
    Readers that are gone are left out: a list of all there ever were would one day not fit in a message.
    """
    t.mkdir(path)
    owner, *others = t.get_perms(path)
    if owner != f"n{reader}" and f"r{reader}" not in others:
        living = [perm for perm in others if dom0.store.is_domain_introduced(int(perm[1:]))]
        t.set_perms(path, [owner, *living, f"r{reader}"])


def _memory_kib(t: Transaction, domid: int) -> int:
    path = f"/local/domain/{domid}/memory/static-max"
    text = t.read(path)
    if text is None or not text.isdecimal():
        raise ConfigError(f"{path} is {text!r}, expected KiB: the toolstack writes it when it creates a domain")
    return int(text)


def _may_balloon(t: Transaction, domid: int) -> bool:
    """Whether a guest's memory is below its maximum; libxl counts video memory in one of the two only."""
    target, video = (t.read(f"/local/domain/{domid}/memory/{name}") for name in ("target", "videoram"))
    if target is None or not target.isdecimal():
        return False
    return int(target) + (int(video) if video and video.isdecimal() else 0) < _memory_kib(t, domid)


def _optional(*entries: tuple[Node[Any], Any]) -> Iterator[tuple[Node[Any], Any]]:
    return (entry for entry in entries if entry[1] is not None)


def _perms(owner: int, reader: int) -> list[str]:
    """
    Permissions of a directory that one side writes and the other reads. dom0 owns it, and so all that is made in it
    here: XenStore counts a node against its owner, and limits how many a domain other than dom0 may own.
    """
    return ["n0", *([f"b{owner}"] if owner else []), f"r{reader}"]


def _write_dir(
    t: Transaction, directory: Directory, path: str, owner: int, reader: int, entries: list[Entry], queues: int = 0
) -> None:
    """
    Makes a directory with what its owner finds in it: the entries, each node's `initial`, a directory for each queue.
    """
    t.mkdir(path)
    t.set_perms(path, _perms(owner, reader))
    for n in range(queues):
        t.mkdir(f"{path}/queue-{n}")
    for node in directory.nodes:
        if node.initial is not None:
            for indices in ((n,) for n in range(queues)) if node.indices else ((),):
                t.write(node.path(path, *indices), node.initial)
    for node, value, *_ in entries:
        try:
            t.write(node.path(path), node.format(value))
        except ValueError as error:
            raise ConfigError(str(error)) from error
