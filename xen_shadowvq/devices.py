# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices as dom0 sees them: where both pairs stand, and what mediator and backend answer when asked."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from xen_shadowvq import account
from xen_shadowvq.answer import is_answered, next_request
from xen_shadowvq.dom0 import Dom0, Record, numbers, with_name
from xen_shadowvq.errors import ConfigError, PeerProtocolError, XenStoreError
from xen_shadowvq.trace import QueueTrace
from xen_shadowvq.xenstore import Transaction, XenStore
from xenstore_schema import State, nodes
from xenstore_schema.spec import Node

POLL_S, POLL_MAX_S = 0.02, 0.25
BACKEND_ANSWER_S = 2.0
ABSENT = "absent"
SECTOR_BYTES = 512


@dataclass(frozen=True)
class Attached:
    """One device: its domains, and where its two pairs stand. `handle` is None if dom0 never knew it."""

    frontend: int
    device: int
    mediator: int
    backend: int
    handle: int | None
    state: str
    backend_state: str
    error: str | None
    held_pages: int = 0
    orphaned: bool = False
    """Its mediator's domain, or the mediator's half of the pair, is gone."""
    frontend_name: str | None = None
    mediator_name: str | None = None
    backend_name: str | None = None

    @property
    def path(self) -> str:
        """The mediator's directory on leg 1."""
        return nodes.virtio_back_path(mediator=self.mediator, frontend=self.frontend, device=self.device)

    @property
    def is_mediated(self) -> bool:
        """Whether the mediator's half of leg 1 is there."""
        return self.state != ABSENT

    @property
    def backend_path(self) -> str:
        """The backend's directory on leg 2. ConfigError: the mediator's half is gone, so nobody would answer."""
        if self.handle is None or not self.is_mediated:
            frontend = with_name(self.frontend, self.frontend_name)
            mediator = with_name(self.mediator, self.mediator_name)
            raise ConfigError(f"device {self.device} of domain {frontend}: its mediator, {mediator}, is gone")
        return nodes.svq_back_path(backend=self.backend, mediator=self.mediator, handle=self.handle)

    @property
    def held_by(self) -> int | None:
        """The domain that keeps pages of the guest mapped. None: none does."""
        return self.backend if self.held_pages else None

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "held_by": self.held_by}


def list_devices(dom0: Dom0) -> list[Attached]:
    """Every device of every mediator, and those whose mediator is gone."""
    store = dom0.store
    served = [
        attached
        for domid in numbers(store, "/local/domain")
        for frontend in numbers(store, nodes.virtio_back_root(mediator=domid))
        for device in numbers(store, f"{nodes.virtio_back_root(mediator=domid)}/{frontend}")
        if (attached := _look(dom0, frontend, device, domid)) is not None
    ]
    return served + [_orphan(dom0, record) for record in orphans(dom0) if not _is_listed(record, served)]


def orphans(dom0: Dom0, frontend: int | None = None) -> Iterator[Record]:
    """Records of devices whose mediator's domain, or half of the pair, is gone."""
    for domid in numbers(dom0.store, "/local/domain") if frontend is None else [frontend]:
        yield from (record for record in dom0.records(domid) if not dom0.is_mediated(record))


def find(dom0: Dom0, frontend: int, device: int) -> Attached:
    """One device. ConfigError: there is no such device."""
    record = dom0.record(frontend, device)
    mediators = [record.mediator] if record else numbers(dom0.store, "/local/domain")
    for mediator in mediators:
        found = _look(dom0, frontend, device, mediator)
        if found is not None:
            return found
    if record is None:
        name = dom0.domain_name(frontend)
        raise ConfigError(f"domain {name} has no device {device}; `shadowvq ctl list` shows what there is")
    return _orphan(dom0, record)


def who_holds(dom0: Dom0, pages: int, holder: int | None) -> str:
    """
    Which domain keeps pages of a guest mapped, and what ends that: a clause for people. dom0 knows by itself which
    domain it can be; but that it does keep them is read from the guest's grant table, where the guest may write what it
    likes.
    """
    mapped = f"{pages} page{'s' if pages > 1 else ''} of the guest mapped"
    if holder is None:
        return f"a backend whose device is gone still has {mapped}, or the guest fakes that"
    name = dom0.domain_name(holder)
    return f"domain {name} still has {mapped}, or the guest fakes that; `xl destroy {holder}` ends it"


def status(dom0: Dom0, found: Attached, timeout_s: float) -> dict[str, Any]:
    """
    The mediator's own account of a device, states and counters, with the backend's added as `backend_...`. Whose device
    it is, and who holds pages of it, is what dom0 knows, whatever they answer.

    The backend is not trusted: if it does not answer it is left out, and so is anything that is not a named counter.
    ConfigError: the mediator does not answer. PeerProtocolError: its answer is no account of a device.
    """
    store, back, deadline = dom0.store, found.backend_path, time.monotonic() + timeout_s
    patience_s = min(BACKEND_ANSWER_S, timeout_s / 2)  # a backend that interferes leaves time for the mediator
    try:
        asked = _ask(dom0, back, nodes.SvqBack.STATS_REQUEST, time.monotonic() + patience_s)
    except ConfigError:
        asked = None
    untrusted_answer = _ask_mediator(dom0, found, nodes.VirtioBack.STATS_REQUEST, nodes.VirtioBack.STATS, deadline)
    told = account.of_mediator(untrusted_answer, _name_of_answer(dom0, found, nodes.VirtioBack.STATS))
    until = min(deadline, time.monotonic() + BACKEND_ANSWER_S)
    untrusted_backend = _read_answer(store, back, asked, nodes.SvqBack.STATS, until) if asked else None
    known = {"frontend": found.frontend, "device": found.device, "backend": found.backend}
    held_by = found.backend if told["held_pages"] else None
    return account.of_backend(untrusted_backend or {}) | known | told | {"held_by": held_by}


def resize(dom0: Dom0, found: Attached, timeout_s: float) -> int:
    """
    Has the backend measure the image, and waits until the mediator has told the frontend. Returns the size in bytes,
    which may stem from a later request.

    ConfigError: the backend says why it cannot, or one of the two does not answer.
    """
    store, back, deadline = dom0.store, found.backend_path, time.monotonic() + timeout_s
    request = _ask(dom0, back, nodes.SvqBack.RESIZE_REQUEST, deadline)
    untrusted_answer = _read_answer(store, back, request, nodes.SvqBack.RESIZE, deadline) if request else None
    backend = dom0.domain_name(found.backend)
    error, size = (untrusted_answer or {}).get("error"), _size_in(untrusted_answer)
    if isinstance(error, str):
        raise ConfigError(f"backend in domain {backend}: {error}")
    if size is None:
        raise ConfigError(f"the backend in domain {backend} does not answer; is its service running?")

    sizes = [size]  # and those that were found since, for others who asked

    def told() -> bool:
        sizes.append(_size_in(_read_answer(store, back, request or 0, nodes.SvqBack.RESIZE, deadline=0.0)) or sizes[-1])
        told_config = nodes.VirtioBack.CONFIG.read(store.read, found.path)
        return told_config is not None and told_config[:8] == (sizes[-1] // SECTOR_BYTES).to_bytes(8, "little")

    if not wait_until(told, max(0.0, deadline - time.monotonic())):
        name = dom0.domain_name(found.mediator)
        raise ConfigError(
            f"the mediator in domain {name} did not pass on the new size of {sizes[-1]} bytes; is its service running?"
        )
    return sizes[-1]


def trace(dom0: Dom0, found: Attached, queue: int, every: int | None, timeout_s: float) -> QueueTrace:
    """
    Where a queue of a device stands, and its latest events; with `every`, from now on one in so many chains is among
    them (0: none). ConfigError: the device has no such queue, or the mediator does not answer. PeerProtocolError: what
    it answers is no trace.
    """
    back, deadline = nodes.VirtioBack, time.monotonic() + timeout_s
    about = {back.TRACE_QUEUE: queue} | ({} if every is None else {back.TRACE_EVERY: every})
    while True:
        untrusted = _ask_mediator(dom0, found, back.TRACE_REQUEST, back.TRACE, deadline, about)
        told = QueueTrace.unpacked(untrusted)
        if told is not None and told.queue == queue:
            break
        if told is None:
            raise PeerProtocolError(_name_of_answer(dom0, found, back.TRACE), str(untrusted), "the trace of a queue")
        if time.monotonic() >= deadline:
            raise ConfigError(_no_answer(dom0, found))
        time.sleep(POLL_S)  # somebody else has asked for another queue meanwhile
    if told.connection == "none" and told.queues:
        device = f"device {found.device} of domain {dom0.domain_name(found.frontend)}"
        raise ConfigError(f"{device} has {told.queues} queue{'s' if told.queues > 1 else ''}, counted from 0")
    return told


def _size_in(untrusted_answer: dict[str, Any] | None) -> int | None:
    size = (untrusted_answer or {}).get("bytes")
    return size if type(size) is int and 0 < size < 1 << 63 else None


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Asks until the condition holds or the time is over, ever more rarely so that XenStore can do other work too."""
    began = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began
        if waited_s >= timeout_s:
            return False
        pause_s = min(POLL_MAX_S, max(POLL_S, waited_s / 4))
        time.sleep(max(0.0, min(pause_s, timeout_s - waited_s)))
    return True


def _look(dom0: Dom0, frontend: int, device: int, mediator: int) -> Attached | None:
    """
    While the guest exists, dom0's record says who has the device, and no other mediator has it, whatever that one says.
    """
    store, record = dom0.store, dom0.record(frontend, device)
    path = nodes.virtio_back_path(mediator=mediator, frontend=frontend, device=device)
    if record is None:
        claimed = _claimed(dom0, frontend, device, mediator)
        if claimed is None:
            return None
        handle, backend = claimed
    elif record.mediator != mediator or record.handle is None or store.read(f"{path}/state") is None:
        return None
    else:
        handle, backend = record.handle, record.backend
    svq_back = nodes.svq_back_path(backend=backend, mediator=mediator, handle=handle)
    states = (_state_name(store, path), _state_name(store, svq_back))
    # Read after the states: services write the reason first, so a state that has one is not seen without it.
    error = store.read(f"{path}/error") or store.read(f"{svq_back}/error") or None
    held = _said(store, nodes.VirtioBack.HELD_PAGES, path) or 0
    orphaned = not store.is_domain_introduced(mediator)
    names = (dom0.name_of(domid) for domid in (frontend, mediator, backend))
    return Attached(frontend, device, mediator, backend, handle, *states, error, held, orphaned, *names)


def _claimed(dom0: Dom0, frontend: int, device: int, mediator: int) -> tuple[int, int] | None:
    """
    Handle and backend of a device as its mediator names them, where dom0's record has gone with the guest. A backend
    counts only if its own directory, where no mediator can write, has that pair: nobody is to be blamed for pages, let
    alone destroyed, on a mediator's word.
    """
    if dom0.store.is_domain_introduced(frontend):
        return None  # a guest that exists has records of all its devices
    path = nodes.virtio_back_path(mediator=mediator, frontend=frontend, device=device)
    handle = _said(dom0.store, nodes.VirtioBack.SVQ_HANDLE, path)
    if handle is None:
        return None
    backend = _said(dom0.store, nodes.SvqFront.BACKEND_ID, nodes.svq_front_path(mediator=mediator, handle=handle))
    if backend is None:
        return None
    back = nodes.svq_back_path(backend=backend, mediator=mediator, handle=handle)
    return (handle, backend) if _said(dom0.store, nodes.SvqBack.FRONTEND_ID, back) == mediator else None


def _said(store: XenStore, node: Node[int], path: str) -> int | None:
    """What a mediator says there. Nonsense counts as nothing: it must not hide all other devices from anybody."""
    try:
        return node.read(store.read, path)
    except PeerProtocolError:
        return None


def _orphan(dom0: Dom0, record: Record) -> Attached:
    here = record.frontend, record.device, record.mediator, record.backend
    names = (dom0.name_of(domid) for domid in (record.frontend, record.mediator, record.backend))
    return Attached(*here, record.handle, ABSENT, ABSENT, None, 0, True, *names)


def _is_listed(record: Record, devices: list[Attached]) -> bool:
    key = record.frontend, record.device, record.mediator
    return any((one.frontend, one.device, one.mediator) == key for one in devices)


def _ask_mediator(
    dom0: Dom0,
    found: Attached,
    request: Node[int],
    answer: Node[dict[str, Any]],
    deadline: float,
    about: Mapping[Node[int], int] | None = None,
) -> dict[str, Any]:
    """Its answer. ConfigError: there is none."""
    number = _ask(dom0, found.path, request, deadline, about)
    untrusted = _read_answer(dom0.store, found.path, number, answer, deadline) if number else None
    if untrusted is None:
        raise ConfigError(_no_answer(dom0, found))
    return untrusted


def _name_of_answer(dom0: Dom0, found: Attached, node: Node[dict[str, Any]]) -> str:
    return f"the mediator in domain {dom0.domain_name(found.mediator)} answers nonsense in {node.path(found.path)}"


def _no_answer(dom0: Dom0, found: Attached) -> str:
    held = f"; {who_holds(dom0, found.held_pages, found.held_by)}" if found.held_pages else ""
    return f"the mediator in domain {dom0.domain_name(found.mediator)} does not answer; is its service running?{held}"


def _ask(
    dom0: Dom0, path: str, request: Node[int], deadline: float, about: Mapping[Node[int], int] | None = None
) -> int | None:
    """
    Makes a request, with the nodes `about` it; returns its number, one more than that of the request before. None: the
    directory is gone. ConfigError: its nodes did not stand still until the deadline.
    """

    def work(t: Transaction) -> int | None:
        if t.read(f"{path}/state") is None:
            return None
        try:
            number = next_request(request.read(t.read, path) or 0)
        except PeerProtocolError:
            number = next_request(0)  # its service has written nonsense there, which harms nobody but itself
        for node, value in (about or {}).items():
            t.write(node.path(path), node.format(value))
        t.write(request.path(path), request.format(number))
        return number

    try:
        return dom0.in_transaction(work, deadline)
    except XenStoreError as error:
        if error.errno != errno.EAGAIN:
            raise
        owner = path.removeprefix("/local/domain/").partition("/")[0]
        raise ConfigError(
            f"nothing can be asked in {path}: domain {dom0.domain_name(int(owner))}, whose directory it is, or other "
            "commands changed it again and again"
        ) from error


def _read_answer(
    store: XenStore, path: str, request: int, node: Node[dict[str, Any]], deadline: float
) -> dict[str, Any] | None:
    """The answer to this request or a later one, without its nonce; None if there is none by then."""
    untrusted: dict[str, Any] = {}

    def answered() -> bool:
        nonlocal untrusted
        try:
            untrusted = node.read(store.read, path) or {}  # all of it again: what was read before is out of date
        except PeerProtocolError:
            untrusted = {}
            return True
        return is_answered(request, untrusted.get("nonce"))

    wait_until(answered, max(0.0, deadline - time.monotonic()))
    return untrusted if is_answered(request, untrusted.pop("nonce", None)) else None


def _state_name(store: XenStore, path: str) -> str:
    text = store.read(f"{path}/state")
    return State(int(text)).name if text is not None and text in "12345678" and len(text) == 1 else "absent"
