# SPDX-License-Identifier: GPL-2.0-or-later
"""The user-space virtio-blk driver as Python objects: memory, rings and a job of requests, all run by C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domU_frontend.ledger import Ledger
from xen_shadowvq.errors import HypervisorError
from xen_shadowvq.hypervisor import Hypervisor, struct_to_dict
from xen_shadowvq.native import constants

_C = constants("driver")
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = (
    int(getattr(_C, f"SVQ_DRV_{kind}")) for kind in ("IN", "OUT", "FLUSH", "GET_ID", "DISCARD", "WRITE_ZEROES")
)
STATUS_OK, STATUS_IOERR, STATUS_UNSUPP = (
    int(getattr(_C, f"SVQ_DRV_STATUS_{status}")) for status in ("OK", "IOERR", "UNSUPP")
)
PAGE = int(_C.SVQ_PAGE_SIZE)


@dataclass(frozen=True)
class Request:
    """One request: `buffer` is a guest physical address, `length` bytes; split into `segments` of about equal size."""

    kind: int
    sector: int = 0
    buffer: int = 0
    length: int = 0
    segments: int = 1
    indirect: bool = True


@dataclass(frozen=True)
class Result:
    """What became of a request. `error` is 0 or the driver's -errno; `status` is what the device wrote."""

    latency_ns: int
    error: int
    used_len: int
    status: int


@dataclass(frozen=True)
class QueueAddresses:
    """What is published about a queue."""

    size: int
    desc: int
    avail: int
    used: int
    port: int


class BlkDriver:
    """
    A driver that owns `pages` pages of its domain's memory, from `first_gfn` on. `run` gives up when nothing completes
    for `timeout_ms`; 0: the driver's default. `ledger`, if given, records what the driver has given away.

    HypervisorError: the memory or an event channel cannot be had.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        *,
        mediator: int,
        pages: int,
        queues: int,
        queue_size: int,
        features: int,
        poll_us: int = 50,
        first_gfn: int = 0,
        timeout_ms: int = 0,
        ledger: Ledger | None = None,
    ) -> None:
        self._library = hypervisor.library
        ffi, lib = self._library.ffi, self._library.lib
        c = ffi.new("struct svq_drv_config *")
        c.first_gfn, c.pages, c.features, c.poll_us = first_gfn, pages, features, poll_us
        c.mediator_domid, c.queues, c.queue_size = mediator, queues, queue_size
        c.timeout_ms = timeout_ms
        self.ledger = ledger
        if ledger is not None:
            c.ledger = ledger.handle
        out = ffi.new("struct svq_drv **")
        self._library.check(lib.svq_drv_create(hypervisor.handle, c, out), "drv_create")
        self.handle: Any = out[0]
        self.queues, self.pages = queues, pages
        first, count = ffi.new("size_t *"), ffi.new("size_t *")
        lib.svq_drv_data_pages(self.handle, first, count)
        self.data_first_page, self.data_pages = int(first[0]), int(count[0])

    def addresses(self, queue: int) -> QueueAddresses:
        """Where a queue's rings are, in guest physical addresses."""
        info = self._library.ffi.new("struct svq_drv_queue_info *")
        self._library.check(self._library.lib.svq_drv_queue_info(self.handle, queue, info), "drv_queue_info")
        return QueueAddresses(info.size, info.desc, info.avail, info.used, info.port)

    def start(self, features: int) -> None:
        """Empties the rings and uses these features from now on."""
        self._library.check(self._library.lib.svq_drv_start(self.handle, features), "drv_start")

    def gpa(self, page: int) -> int:
        """Guest physical address of one of the driver's pages."""
        gpa = self._library.ffi.new("uint64_t *")
        self._library.check(self._library.lib.svq_drv_page_gpa(self.handle, page, gpa), "drv_page_gpa")
        return int(gpa[0])

    def offset(self, gpa: int) -> int:
        """Where a guest physical address is in the driver's memory, in bytes from the start of its first page."""
        address = self._library.ffi.cast("uintptr_t", self._library.ffi.from_buffer(self.memory(gpa, 1)))
        first = self._library.ffi.cast("uintptr_t", self._library.ffi.from_buffer(self.memory(self.gpa(0), 1)))
        return int(address) - int(first)

    def memory(self, gpa: int, length: int) -> memoryview:
        """
        The driver's own memory from a guest physical address on, writable. It continues in the order of the process's
        pages: on real Xen, the frames of consecutive pages need not have consecutive numbers.
        """
        va = self._library.lib.svq_drv_va(self.handle, gpa, length)
        if va == self._library.ffi.NULL:
            raise ValueError(f"{length} bytes at {gpa:#x} are not all the driver's")
        return memoryview(self._library.ffi.buffer(va, length))

    def run(self, requests: Sequence[Request], depth: int, progress: Any = None) -> list[Result]:
        """Does the requests, at most `depth` at a time, over all queues. HypervisorError: the device hangs or lied."""
        ffi = self._library.ffi
        reqs = ffi.new("struct svq_drv_req[]", len(requests))
        for c, r in zip(reqs, requests, strict=True):
            c.sector, c.buf_gpa, c.type, c.len = r.sector, r.buffer, r.kind, r.length
            c.segments, c.flags = r.segments, self._library.lib.SVQ_DRV_REQ_INDIRECT if r.indirect else 0
        results = ffi.new("struct svq_drv_result[]", len(requests))
        progress = ffi.NULL if progress is None else progress
        rc = self._library.lib.svq_drv_run(self.handle, reqs, len(requests), depth, results, progress)
        if rc < 0:
            raise HypervisorError("drv_run", None, -rc)
        return [Result(r.latency_ns, r.error, r.used_len, r.status) for r in results]

    def new_progress(self) -> Any:
        """A struct svq_drv_progress that another thread may read while `run` runs."""
        return self._library.ffi.new("struct svq_drv_progress *")

    def reset_prepare(self, queue: int) -> int:
        """Ring reset, first half: the driver leaves the queue; returns the requests that it leaves behind."""
        return self._library.check(self._library.lib.svq_drv_queue_reset_prepare(self.handle, queue), "drv_reset")

    def rearm(self, queue: int) -> None:
        """Ring reset, second half: the queue is empty and in use again."""
        self._library.check(self._library.lib.svq_drv_queue_rearm(self.handle, queue, 0), "drv_rearm")

    def not_held(self, queue: int, held: bytes) -> None:
        """The device is Closing, and all requests whose heads have no bit in `held` have ended."""
        rc = self._library.lib.svq_drv_not_held(self.handle, queue, held, len(held))
        self._library.check(rc, "drv_not_held")

    def take_back(self, how: str) -> None:
        """All of the driver's memory is its own again; `how` is the end of a constant SVQ_BACK_..."""
        lib = self._library.lib
        lib.svq_drv_take_back(self.handle, getattr(lib, f"SVQ_BACK_{how}"))

    def use_own(self, seed: int) -> int:
        """Fills those data pages with tags that are the driver's own, by its ledger; returns how many."""
        lib = self._library.lib
        rc = lib.svq_drv_use_own(self.handle, self.data_first_page, self.data_pages, seed)
        return self._library.check(int(rc), "drv_use_own")

    def own_changed(self, seed: int) -> int:
        """How many of those pages somebody has changed since."""
        lib = self._library.lib
        rc = lib.svq_drv_own_changed(self.handle, self.data_first_page, self.data_pages, seed)
        return self._library.check(int(rc), "drv_own_changed")

    @property
    def given(self) -> int:
        """How many requests are given away, by the ledger."""
        return int(self._library.lib.svq_drv_given(self.handle))

    def by_hand(self) -> None:
        """Notes that somebody writes into the rings without this driver from now on, until the device is Closed."""
        if self.ledger is not None:
            self.ledger.by_hand()

    def fill_tags(self, first_page: int, count: int, seed: int) -> None:
        """Fills pages with tags, so that each 16 bytes say where they are from."""
        self._library.check(self._library.lib.svq_drv_fill_tags(self.handle, first_page, count, seed), "drv_fill_tags")

    def counters(self) -> dict[str, int]:
        """struct svq_drv_counters."""
        counters = self._library.ffi.new("struct svq_drv_counters *")
        self._library.lib.svq_drv_read_counters(self.handle, counters)
        return struct_to_dict(self._library, counters)

    def close(self) -> None:
        """Closes the driver. Safe to call twice."""
        if self.handle is not None:
            self._library.lib.svq_drv_destroy(self.handle)
            self.handle = None
