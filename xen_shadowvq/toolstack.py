# SPDX-License-Identifier: GPL-2.0-or-later
"""What dom0 does: making and taking away the two XenBus pairs of a device, and asking after them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from xen_shadowvq.errors import ConfigError, PeerProtocolError
from xen_shadowvq.publish import Entry
from xen_shadowvq.xenstore import Transaction, XenStore
from xenstore_schema import State, nodes
from xenstore_schema.spec import Node

POLL_S = 0.02
BACKEND_ANSWER_S = 2.0
SECTOR_BYTES = 512


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


@dataclass(frozen=True)
class Attached:
    """One device: its domains, and where its two pairs stand."""

    frontend: int
    device: int
    mediator: int
    backend: int
    handle: int
    state: str
    backend_state: str
    error: str | None

    @property
    def path(self) -> str:
        """The mediator's directory on leg 1."""
        return nodes.virtio_back_path(mediator=self.mediator, frontend=self.frontend, device=self.device)


def attach(
    store: XenStore, *, frontend: int, mediator: int, backend: int, disk: Disk, device: int | None = None
) -> int:
    """
    Makes both pairs, all nodes in one transaction, and returns the device id.

    ConfigError: a domain does not exist, the frontend has another mediator, the device id is taken, or a value is not
    allowed.
    """
    for role, domid in (("frontend", frontend), ("mediator", mediator), ("backend", backend)):
        if store.read(f"/local/domain/{domid}/domid") is None and domid != 0:
            raise ConfigError(f"{role}: there is no domain {domid}")

    def work(t: Transaction) -> int:
        taken = {int(i) for i in t.ls(nodes.virtio_front_root(frontend=frontend)) if i.isdecimal()}
        _check_alone(t, frontend, mediator, taken)
        number = device if device is not None else next(i for i in range(1 << 16) if i not in taken)
        if number in taken:
            raise ConfigError(f"domain {frontend} has a device {number} already")
        used = {int(i) for i in t.ls(nodes.svq_front_root(mediator=mediator)) if i.isdecimal()}
        handle = next(i for i in range(1 << 31) if i not in used)
        _write_pairs(t, frontend, mediator, backend, number, handle, _memory_kib(t, frontend), disk)
        return number

    return store.in_transaction(work)


def _check_alone(t: Transaction, frontend: int, mediator: int, devices: Iterable[int]) -> None:
    """Two mediators would write the same entries of the frontend's grant table."""
    for device in sorted(devices):
        other = t.read(f"{nodes.virtio_front_path(frontend=frontend, device=device)}/backend-id")
        if other not in (None, str(mediator)):
            raise ConfigError(
                f"mediator: domain {frontend} has a device {device} of mediator {other}, and a guest can have one "
                f"mediator only; use that one, or detach the device first"
            )


def _write_pairs(
    t: Transaction, frontend: int, mediator: int, backend: int, device: int, handle: int, memory: int, disk: Disk
) -> None:
    virtio_back = nodes.virtio_back_path(mediator=mediator, frontend=frontend, device=device)
    virtio_front = nodes.virtio_front_path(frontend=frontend, device=device)
    svq_back = nodes.svq_back_path(backend=backend, mediator=mediator, handle=handle)
    svq_front = nodes.svq_front_path(mediator=mediator, handle=handle)
    for path, owner, reader in ((svq_back, backend, mediator), (virtio_back, mediator, frontend)):
        peers_directory = path.rpartition("/")[0]  # its owner removes it with the peer's last device
        t.mkdir(peers_directory)
        t.set_perms(peers_directory, [f"n{owner}", f"r{reader}"])
    for root, reader in (
        (nodes.svq_front_root(mediator=mediator), backend),
        (nodes.virtio_front_root(frontend=frontend), mediator),
    ):
        _make_readable(t, root, reader)
    vb, vf, sb, sf = nodes.VirtioBack, nodes.VirtioFront, nodes.SvqBack, nodes.SvqFront
    _write_dir(t, svq_back, backend, mediator, [
        (sb.FRONTEND, svq_front), (sb.FRONTEND_ID, mediator), (sb.ONLINE, True), (sb.TYPE, "blk"),
        (sb.PARAMS, disk.image), (sb.MODE, "r" if disk.read_only else "w"), (sb.DIRECT_IO, disk.direct_io),
        (sb.QUEUES, disk.queues), *_optional((sb.SERIAL, disk.serial)), (sb.STATE, State.Initialising),
    ])  # fmt: skip
    _write_dir(t, svq_front, mediator, backend, [
        (sf.BACKEND, svq_back), (sf.BACKEND_ID, backend), (sf.STATE, State.Initialising),
    ])  # fmt: skip
    _write_dir(t, virtio_back, mediator, frontend, [
        (vb.FRONTEND, virtio_front), (vb.FRONTEND_ID, frontend), (vb.ONLINE, True), (vb.SVQ_HANDLE, handle),
        (vb.FRONTEND_MEMORY, memory),
        *_optional((vb.PLACEMENT, disk.placement), (vb.COPY_THRESHOLD, disk.copy_threshold)),
        (vb.STATE, State.Initialising),
    ])  # fmt: skip
    _write_dir(t, virtio_front, frontend, mediator, [
        (vf.BACKEND, virtio_back), (vf.BACKEND_ID, mediator), (vf.STATE, State.Initialising),
    ])  # fmt: skip


def _make_readable(t: Transaction, path: str, reader: int) -> None:
    """Makes the directory if need be. Who may not read what it watches does not hear of its end (XSA-115)."""
    t.mkdir(path)
    perms = t.get_perms(path)
    if perms[0] != f"n{reader}" and f"r{reader}" not in perms:
        t.set_perms(path, [*perms, f"r{reader}"])


def _memory_kib(t: Transaction, domid: int) -> int:
    path = f"/local/domain/{domid}/memory/static-max"
    text = t.read(path)
    if text is None or not text.isdecimal():
        raise ConfigError(f"{path} is {text!r}, expected KiB: the toolstack writes it when it creates a domain")
    return int(text)


def _optional(*entries: tuple[Node[Any], Any]) -> Iterator[tuple[Node[Any], Any]]:
    return (entry for entry in entries if entry[1] is not None)


def _write_dir(t: Transaction, path: str, owner: int, reader: int, entries: list[Entry]) -> None:
    t.mkdir(path)
    t.set_perms(path, [f"n{owner}", f"r{reader}"])
    for node, value, *_ in entries:
        try:
            t.write(node.path(path), node.format(value))
        except ValueError as error:
            raise ConfigError(str(error)) from error


def detach(store: XenStore, found: Attached, timeout_s: float) -> None:
    """
    Has the mediator close the device, waits for it, and removes what is left of both pairs.

    ConfigError: it was not closed in time; the nodes are left so that one can look.
    """
    store.write(f"{found.path}/online", "0")
    svq_back = _svq_back(found)
    if not wait_until(lambda: store.read(f"{found.path}/state") is None, timeout_s):
        raise ConfigError(f"device {found.device} of domain {found.frontend} was not closed within {timeout_s:g} s")
    store.rm(nodes.virtio_front_path(frontend=found.frontend, device=found.device))
    if not wait_until(lambda: store.read(f"{svq_back}/state") is None, timeout_s):
        raise ConfigError(f"backend domain {found.backend} did not let go of {svq_back} within {timeout_s:g} s")


def remove_orphan(store: XenStore, frontend: int, device: int) -> bool:
    """Removes a frontend's half of a pair whose mediator's half is gone, with its domain; False: it is no such pair."""
    front = nodes.virtio_front_path(frontend=frontend, device=device)
    mediator = store.read(f"{front}/backend-id")
    if mediator is None or not mediator.isdecimal():
        return False
    back = nodes.virtio_back_path(mediator=int(mediator), frontend=frontend, device=device)
    if store.read(f"{back}/state") is not None:
        return False
    store.rm(front)
    return True


def list_devices(store: XenStore) -> list[Attached]:
    """Every device of every mediator."""
    return [
        attached
        for domid in _numbers(store, "/local/domain")
        for frontend in _numbers(store, nodes.virtio_back_root(mediator=domid))
        for device in _numbers(store, f"{nodes.virtio_back_root(mediator=domid)}/{frontend}")
        if (attached := find(store, frontend, device, domid)) is not None
    ]


def find(store: XenStore, frontend: int, device: int, mediator: int | None = None) -> Attached | None:
    """One device, or None. Its mediator is looked up when it is not given."""
    if mediator is None:
        text = store.read(f"{nodes.virtio_front_path(frontend=frontend, device=device)}/backend-id")
        if text is None or not text.isdecimal():
            return None
        mediator = int(text)
    path = nodes.virtio_back_path(mediator=mediator, frontend=frontend, device=device)
    handle = nodes.VirtioBack.SVQ_HANDLE.read(store.read, path)
    if handle is None:
        return None
    svq_front = nodes.svq_front_path(mediator=mediator, handle=handle)
    backend = nodes.SvqFront.BACKEND_ID.read(store.read, svq_front)
    if backend is None:
        return None
    svq_back = nodes.svq_back_path(backend=backend, mediator=mediator, handle=handle)
    states = (_state_name(store, path), _state_name(store, svq_back))
    # Read after the states: services write the reason first, so a state that has one is not seen without it.
    error = store.read(f"{path}/error") or store.read(f"{svq_back}/error")
    return Attached(frontend, device, mediator, backend, handle, *states, error)


def status(store: XenStore, found: Attached, timeout_s: float) -> dict[str, Any]:
    """
    The mediator's own account of a device, states and counters, and with it the backend's, as `backend_...`.

    The backend's word is only that: a backend that answers nothing, or no numbers, is left out.
    ConfigError: the mediator does not answer.
    """
    svq_back = _svq_back(found)
    asked = _ask(store, svq_back, nodes.SvqBack.STATS_REQUEST) if store.read(f"{svq_back}/state") is not None else None
    nonce = _ask(store, found.path, nodes.VirtioBack.STATS_REQUEST)
    answer = _read_answer(store, found.path, nonce, nodes.VirtioBack.STATS, timeout_s)
    if answer is None:
        raise ConfigError(f"the mediator in domain {found.mediator} does not answer; is its service running?")
    untrusted_backend = _read_answer(store, svq_back, asked, nodes.SvqBack.STATS, BACKEND_ANSWER_S) if asked else None
    counters = {f"backend_{name}": n for name, n in (untrusted_backend or {}).items() if isinstance(n, int)}
    return counters | answer


def resize(store: XenStore, found: Attached, timeout_s: float) -> int:
    """
    Has the backend look how large the image is now, and waits until the mediator tells the frontend; returns the bytes.

    ConfigError: the backend says why not, or one of them does not answer.
    """
    svq_back = _svq_back(found)
    nonce = _ask(store, svq_back, nodes.SvqBack.RESIZE_REQUEST)
    untrusted_answer = _read_answer(store, svq_back, nonce, nodes.SvqBack.RESIZE, timeout_s) or {}
    error, size = untrusted_answer.get("error"), untrusted_answer.get("bytes")
    if isinstance(error, str):
        raise ConfigError(f"backend in domain {found.backend}: {error}")
    if not isinstance(size, int) or not 0 < size < 1 << 63:
        raise ConfigError(f"the backend in domain {found.backend} does not answer; is its service running?")

    def told() -> bool:
        told_config = nodes.VirtioBack.CONFIG.read(store.read, found.path)
        return told_config is not None and told_config[:8] == (size // SECTOR_BYTES).to_bytes(8, "little")

    if not wait_until(told, timeout_s):
        raise ConfigError(f"the mediator in domain {found.mediator} did not pass on the new size of {size} bytes")
    return size


def _svq_back(found: Attached) -> str:
    return nodes.svq_back_path(backend=found.backend, mediator=found.mediator, handle=found.handle)


def _ask(store: XenStore, path: str, request: Node[int]) -> int:
    nonce = random.getrandbits(31) + 1
    store.write(request.path(path), str(nonce))
    return nonce


def _read_answer(
    store: XenStore, path: str, nonce: int, node: Node[dict[str, Any]], timeout_s: float
) -> dict[str, Any] | None:
    """The answer to the request `nonce`, without it; None: there is none, or it is no such answer."""
    found: dict[str, Any] = {}

    def answered() -> bool:
        try:
            found.update(node.read(store.read, path) or {})
        except PeerProtocolError:
            return True
        return found.get("nonce") == nonce

    answered_in_time = wait_until(answered, timeout_s)
    return found if answered_in_time and found.pop("nonce", None) == nonce else None


def wait_until(condition: Any, timeout_s: float) -> bool:
    """Asks until it is true or the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _numbers(store: XenStore, path: str) -> list[int]:
    return sorted(int(name) for name in store.ls(path) if name.isdecimal())


def _state_name(store: XenStore, path: str) -> str:
    text = store.read(f"{path}/state")
    return State(int(text)).name if text is not None and text in "12345678" and len(text) == 1 else "absent"
