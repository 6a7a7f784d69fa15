# SPDX-License-Identifier: GPL-2.0-or-later
"""The C data plane as Python objects: guests, devices and workers, each a resource with one owner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from xen_shadowvq.config import Policy
from xen_shadowvq.errors import DeviceBroken, HypervisorError
from xen_shadowvq.hypervisor import Hypervisor, struct_to_dict


@dataclass(frozen=True)
class QueueRings:
    """What the frontend said about one of its rings: guest physical addresses, and its event channel."""

    index: int
    size: int
    desc: int
    avail: int
    used: int
    port: int


@dataclass(frozen=True)
class ShadowRefs:
    """What the backend must know of a shadow queue: one grant reference for each page, and the port to bind."""

    size: int
    desc: tuple[int, ...]
    avail: tuple[int, ...]
    used: tuple[int, ...]
    port: int


@dataclass(frozen=True)
class WindowPlan:
    """
    The part of the frontend's grant table in which a device's grants are made; `count` 0: nothing is granted.
    `guarded`: the frontend did not reserve it, so the mediator watches the frontend's own use just below it.
    """

    first: int
    count: int
    direct: bool
    guarded: bool


@dataclass(frozen=True)
class Swept:
    """
    What a sweep found: how many entries are free now, how many their grantee still has mapped, and the domain id of one
    such grantee. The guest can write such entries itself, so the id is only a hint.
    """

    freed: int
    held: int
    holder: int | None


def sweep(hypervisor: Hypervisor, domid: int, marks: Iterable[int]) -> Swept:
    """
    Takes back what was granted in a guest's table in entries with one of these marks. Must not be called while a living
    mediator serves one of those devices. HypervisorError: the table could not be read, and nothing is known.
    """
    library = hypervisor.library
    out = library.ffi.new("struct svq_sweep_result *")
    numbers = bytes(marks)
    library.check(library.lib.svq_sweep(hypervisor.handle, domid, numbers, len(numbers), out), "sweep", domid)
    return Swept(int(out.freed), int(out.held), int(out.holder) if out.held else None)


class Worker:
    """A thread of the data plane."""

    def __init__(self, hypervisor: Hypervisor, poll_us: int, cpu: int | None) -> None:
        self._library = hypervisor.library
        config = self._library.ffi.new("struct svq_worker_config *", {"poll_us_max": poll_us})
        config.cpu = -1 if cpu is None else cpu
        out = self._library.ffi.new("struct svq_worker **")
        self._library.check(self._library.lib.svq_worker_start(hypervisor.handle, config, out), "worker_start")
        self.handle: Any = out[0]
        self.alert_fd: int = self._library.lib.svq_worker_alert_fd(self.handle)

    def stats(self) -> dict[str, int]:
        """struct svq_worker_stats."""
        stats = self._library.ffi.new("struct svq_worker_stats *")
        self._library.lib.svq_worker_read_stats(self.handle, stats)
        return struct_to_dict(self._library, stats)

    def close(self) -> None:
        """Stops the thread. Its devices must be closed first."""
        if self.handle is not None:
            self._library.lib.svq_worker_stop(self.handle)
            self.handle = None


class Guest:
    """A frontend's memory, shared by its devices. `fixed`: the same pages stay behind its frames (no ballooning)."""

    def __init__(self, hypervisor: Hypervisor, domid: int, gfn_limit: int, *, fixed: bool) -> None:
        self._library = hypervisor.library
        self.domid = domid
        ffi, lib = self._library.ffi, self._library.lib
        config = ffi.new("struct svq_guest_config *")
        config.domid = domid
        config.gfn_limit = gfn_limit
        config.memory = lib.SVQ_MEMORY_FIXED if fixed else lib.SVQ_MEMORY_REMAP
        out = ffi.new("struct svq_guest **")
        self._library.check(lib.svq_guest_open(hypervisor.handle, config, out), "guest_open", domid)
        self.handle: Any = out[0]

    def close(self) -> None:
        """Releases the frontend's memory. Its devices must be closed first."""
        if self.handle is not None:
            self._library.lib.svq_guest_close(self.handle)
            self.handle = None


class Arena:
    """Memory of ours that one backend sees. It outlives connections, as a backend may keep mapped what it has seen."""

    def __init__(self, hypervisor: Hypervisor, backend_domid: int) -> None:
        self._library = hypervisor.library
        out = self._library.ffi.new("struct svq_arena **")
        rc = self._library.lib.svq_arena_open(hypervisor.handle, backend_domid, out)
        self._library.check(rc, "arena_open", backend_domid)
        self.handle: Any = out[0]

    def close(self) -> None:
        """Frees it, once no device uses it any more. Safe to call twice."""
        if self.handle:
            self._library.lib.svq_arena_close(self.handle)
            self.handle = None


class Device:
    """One virtio device's queues in the data plane."""

    def __init__(
        self,
        guest: Guest,
        hypervisor: Hypervisor,
        *,
        backend_domid: int,
        num_queues: int,
        policy: Policy,
        mark: int,
        window: WindowPlan,
        event_idx: bool,
        indirect: bool,
        arena: Arena | None = None,
    ) -> None:
        """`arena` provides the pages that the backend sees; None: pages that only this device uses."""
        self._library = hypervisor.library
        self._guest = guest
        self.num_queues = num_queues
        ffi, lib = self._library.ffi, self._library.lib
        config = ffi.new("struct svq_device_config *")
        config.backend_domid = backend_domid
        config.num_queues = num_queues
        config.placement = getattr(lib, f"SVQ_PLACE_{policy.placement.upper()}")
        config.copy_threshold = policy.copy_threshold
        config.bounce_pages = policy.bounce_pages
        config.large_chains = policy.large_chains
        config.mark = mark
        config.window.first_gref = window.first
        config.window.count = window.count
        config.window.direct = window.direct
        config.window.guarded = window.guarded
        config.clear = policy.clear
        config.frontend_event_idx = event_idx
        config.frontend_indirect = indirect
        config.backend_event_idx = 1
        config.arena = arena.handle if arena else ffi.NULL
        out = ffi.new("struct svq_device **")
        self._library.check(lib.svq_device_create(guest.handle, config, out), "device_create", guest.domid)
        self.handle: Any = out[0]

    def setup_queue(self, worker: Worker, rings: QueueRings) -> ShadowRefs:
        """Checks and maps the frontend's ring and makes the shadow ring. DeviceBroken: the ring is wrong."""
        ffi, lib = self._library.ffi, self._library.lib
        refs = ffi.new("struct svq_queue_refs *")
        rc = lib.svq_queue_setup(self.handle, worker.handle, self._queue_config(rings), refs)
        self._check(rc, "queue_setup")
        return ShadowRefs(
            size=rings.size,
            desc=tuple(refs.desc_refs[0 : refs.desc_pages]),
            avail=tuple(refs.avail_refs[0 : refs.avail_pages]),
            used=tuple(refs.used_refs[0 : refs.used_pages]),
            port=int(refs.backend_port),
        )

    def start(self) -> None:
        """Lets requests flow from now on."""
        self._library.lib.svq_device_start(self.handle)

    def drain(self, index: int | None = None) -> int:
        """Takes no more chains from a queue (or from all); returns how many are still alive at the backend."""
        indices = range(self.num_queues) if index is None else (index,)
        return sum(max(0, self._library.lib.svq_queue_drain(self.handle, i)) for i in indices)

    def reset_queue(self, index: int) -> bool:
        """Releases a drained queue's ring; returns False if a chain is still alive at the backend."""
        return bool(self._library.lib.svq_queue_reset(self.handle, index) == 0)

    def restart_queue(self, rings: QueueRings) -> None:
        """Runs a queue again after a reset, with new addresses. DeviceBroken: they are wrong."""
        self._check(self._library.lib.svq_queue_restart(self.handle, self._queue_config(rings)), "queue_restart")

    def fault(self) -> DeviceBroken | None:
        """The first thing that a peer did wrong, or None while the device is well."""
        fault = self._library.ffi.new("struct svq_fault *")
        self._library.lib.svq_device_fault(self.handle, fault)
        if fault.code == 0:
            return None
        ffi, lib = self._library.ffi, self._library.lib
        none = 0xFFFF
        facts: dict[str, int | str] = {"queue": int(fault.queue)}
        if fault.head != none:
            facts["head"] = int(fault.head)
        if fault.desc != none:
            facts["indirect_desc" if fault.in_indirect else "desc"] = int(fault.desc)
        facts |= {"value": int(fault.value), "limit": int(fault.limit)}
        facts["expected"] = ffi.string(lib.svq_err_text(fault.code)).decode()
        facts["source"] = ffi.string(lib.svq_err_source(fault.code)).decode()
        return DeviceBroken(self.name_of_error(fault.code), **facts)

    def stats(self) -> dict[str, int]:
        """struct svq_queue_stats, summed over the queues."""
        total: dict[str, int] = {}
        stats = self._library.ffi.new("struct svq_queue_stats *")
        for index in range(self.num_queues):
            self._library.lib.svq_queue_read_stats(self.handle, index, stats)
            for name, value in struct_to_dict(self._library, stats).items():
                total[name] = total.get(name, 0) + value
        return total

    def trace_every(self, queue: int, every: int) -> None:
        """Also traces one in so many chains from now on; 0: none."""
        self._check(self._library.lib.svq_queue_trace_every(self.handle, queue, every), "queue_trace_every")

    def trace(self, queue: int) -> list[dict[str, int]]:
        """Its events (the fields of struct svq_trace_entry), oldest first. The queue goes on meanwhile."""
        ffi, lib = self._library.ffi, self._library.lib
        entries = ffi.new("struct svq_trace_entry[]", lib.SVQ_TRACE_ENTRIES)
        count = self._library.check(lib.svq_queue_read_trace(self.handle, queue, entries), "queue_read_trace")
        return [struct_to_dict(self._library, ffi.addressof(entries, i)) for i in range(count)]

    def snapshot(self, queue: int) -> Any:
        """Where it stands: struct svq_queue_snapshot."""
        out = self._library.ffi.new("struct svq_queue_snapshot *")
        rc = self._library.lib.svq_queue_read_snapshot(self.handle, queue, out)
        self._library.check(rc, "queue_read_snapshot")
        return out

    def name_of_event(self, event: int) -> str:
        """Of enum svq_trace_event: `refused`, for example."""
        return self._constant("enum svq_trace_event", event, "SVQ_TRACE_")

    def name_of_state(self, state: int) -> str:
        """Of enum svq_queue_state: `running`, for example."""
        return self._constant("enum svq_queue_state", state, "SVQ_QUEUE_")

    def name_of_error(self, code: int) -> str:
        """Of enum svq_err: `SVQ_E_HEAD_RANGE`, for example."""
        return str(self._library.ffi.string(self._library.lib.svq_err_name(code)).decode())

    def _constant(self, enum: str, value: int, prefix: str) -> str:
        name: str = self._library.ffi.typeof(enum).elements[value]
        return name.removeprefix(prefix).lower()

    def stop(self) -> int:
        """
        Takes the queues from their workers, releases the driver's rings for good, and ends every grant. Returns how
        many pages the backend still has mapped: their requests stay in flight (`held`). Each further call tries again.
        """
        return int(self._library.lib.svq_device_stop(self.handle))

    def grantee_gone(self) -> None:
        """
        The backend's domain has ended, and all its mappings with it: forgets the pages whose entries the guest has
        overwritten, of which nobody could tell whether they were mapped.
        """
        self._library.lib.svq_device_grantee_gone(self.handle)

    def held(self, queue: int) -> bytes:
        """After `stop`: a queue's requests with held pages, where bit h % 8 of byte h / 8 is the one with head h."""
        ffi, lib = self._library.ffi, self._library.lib
        bits = ffi.new("uint8_t[]", lib.SVQ_QUEUE_SIZE_MAX // 8)
        count = self._library.check(lib.svq_queue_held(self.handle, queue, bits, len(bits)), "queue_held")
        return bytes(ffi.buffer(bits, count))

    def window_in_use(self) -> int:
        """Entries of the window that have the device's mark: its grants alive, and its held pages."""
        return int(self._library.lib.svq_device_window_in_use(self.handle))

    def window_lost(self) -> bool:
        """Whether the guest's own grants have come near a window that it did not reserve; since then all is copied."""
        return bool(self._library.lib.svq_device_window_lost(self.handle))

    def close(self) -> int:
        """
        Stops the device and frees everything; returns the pages held; a sweep for its mark tells when they are free.
        """
        if self.handle is None:
            return 0
        left = int(self._library.lib.svq_device_close(self.handle))
        self.handle = None
        return left

    def _queue_config(self, rings: QueueRings) -> Any:
        config = self._library.ffi.new("struct svq_queue_config *")
        config.index, config.size = rings.index, rings.size
        config.desc_gpa, config.avail_gpa, config.used_gpa = rings.desc, rings.avail, rings.used
        config.frontend_port = rings.port
        return config

    def _check(self, rc: int, call: str) -> None:
        if rc >= 0:
            return
        fault = self.fault()
        if fault is not None:
            raise fault
        raise HypervisorError(call, self._guest.domid, -rc)
