# SPDX-License-Identifier: GPL-2.0-or-later
"""The C data plane as Python objects: guests, devices and workers, each a resource with one owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xen_shadowvq.errors import DeviceBroken, HypervisorError
from xen_shadowvq.hypervisor import Hypervisor, struct_to_dict

PLACEMENTS = {"exact": 0, "page": 1, "copy": 2}
GRANTS_PER_FRAME = 512


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
    """What the backend must know of a shadow queue: one grant reference a page, and the port to bind."""

    size: int
    desc: tuple[int, ...]
    avail: tuple[int, ...]
    used: tuple[int, ...]
    port: int


@dataclass(frozen=True)
class WindowPlan:
    """Which part of the frontend's grant table the mediator writes."""

    first_frame: int
    frames: int
    direct: bool


@dataclass(frozen=True)
class Policy:
    """How a device's segments reach the backend, and the pools for it."""

    placement: str
    copy_threshold: int
    bounce_pages: int
    large_chains: int


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
        """Stops the thread. Its devices must be closed before."""
        if self.handle is not None:
            self._library.lib.svq_worker_stop(self.handle)
            self.handle = None


class Guest:
    """A frontend's memory and grant window; shared by its devices."""

    def __init__(self, hypervisor: Hypervisor, domid: int, gfn_limit: int, window: WindowPlan) -> None:
        self._library = hypervisor.library
        self.domid = domid
        ffi, lib = self._library.ffi, self._library.lib
        config = ffi.new("struct svq_guest_config *")
        config.domid = domid
        config.gfn_limit = gfn_limit
        config.window_first_frame = window.first_frame
        config.window_frames = window.frames
        config.window_direct = window.direct
        out = ffi.new("struct svq_guest **")
        self._library.check(lib.svq_guest_open(hypervisor.handle, config, out), "guest_open", domid)
        self.handle: Any = out[0]
        self.window_first: int = lib.svq_guest_window_first(self.handle)
        self.window_count: int = lib.svq_guest_window_count(self.handle)
        self.window = window
        self.stale_revoked: int = lib.svq_guest_stale_revoked(self.handle)
        """Grants of a mediator that died, which were taken back now."""
        self.stale_mapped: int = lib.svq_guest_stale_mapped(self.handle)
        """Those of them that their grantee still has mapped, for the last time."""

    def window_in_use(self) -> int:
        """Entries of the window that are not free now."""
        return int(self._library.lib.svq_guest_window_in_use(self.handle))

    def close(self) -> None:
        """Lets go of the frontend's memory and grant table. Its devices must be closed before."""
        if self.handle is not None:
            self._library.lib.svq_guest_close(self.handle)
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
        window_grefs: int,
        event_idx: bool,
        indirect: bool,
    ) -> None:
        self._library = hypervisor.library
        self._guest = guest
        self.num_queues = num_queues
        ffi, lib = self._library.ffi, self._library.lib
        config = ffi.new("struct svq_device_config *")
        config.backend_domid = backend_domid
        config.num_queues = num_queues
        config.placement = PLACEMENTS[policy.placement]
        config.copy_threshold = policy.copy_threshold
        config.bounce_pages = policy.bounce_pages
        config.large_chains = policy.large_chains
        config.window_grefs = window_grefs
        config.frontend_event_idx = event_idx
        config.frontend_indirect = indirect
        config.backend_event_idx = 1
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
        """Requests flow from now on."""
        self._library.lib.svq_device_start(self.handle)

    def drain(self, index: int | None = None) -> int:
        """Takes no more chains of a queue (or of all); returns the chains still alive at the backend."""
        indices = range(self.num_queues) if index is None else (index,)
        return sum(max(0, self._library.lib.svq_queue_drain(self.handle, i)) for i in indices)

    def reset_queue(self, index: int) -> bool:
        """Lets go of a drained queue's ring. False: a chain is still alive at the backend."""
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
        return DeviceBroken(ffi.string(lib.svq_err_name(fault.code)).decode(), **facts)

    def stats(self) -> dict[str, int]:
        """struct svq_queue_stats, summed over the queues."""
        total: dict[str, int] = {}
        stats = self._library.ffi.new("struct svq_queue_stats *")
        for index in range(self.num_queues):
            self._library.lib.svq_queue_read_stats(self.handle, index, stats)
            for name, value in struct_to_dict(self._library, stats).items():
                total[name] = total.get(name, 0) + value
        return total

    def close(self) -> int:
        """Ends all grants and frees everything; returns the grants that the backend still held (in quarantine)."""
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
