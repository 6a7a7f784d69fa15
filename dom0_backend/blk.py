# SPDX-License-Identifier: GPL-2.0-or-later
"""The C block device as Python objects: the image, and the device that serves rings with it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISBLK
from typing import Any

from xen_shadowvq.errors import DeviceBroken, HypervisorError, ImageBusy, ImageError
from xen_shadowvq.hypervisor import Hypervisor, struct_to_dict
from xen_shadowvq.native import load

_PARTS_MAX = 65536


@dataclass(frozen=True)
class LivePart:
    """One buffer of a live request: `length` bytes at `offset` in grant `gref` of domain `owner`."""

    gref: int
    offset: int
    length: int
    owner: int
    queue: int
    head: int
    writable: bool


class Image:
    """An open raw image. ImageError: why it cannot be used."""

    def __init__(
        self, path: Path, *, read_only: bool, direct_io: bool, shareable: bool = False, flush_failed: bool = False
    ) -> None:
        """
        `shareable`: others may write to it at the same time. `flush_failed`: a flush of it has failed before, so its
        flushes keep failing. ImageBusy: somebody else's use of it rules out this one.
        """
        self._library = load("backend")
        self._path = path
        ffi, lib = self._library.ffi, self._library.lib
        out, self.info = ffi.new("struct svq_be_image **"), ffi.new("struct svq_be_image_info *")
        flags = (lib.SVQ_BE_READ_ONLY if read_only else 0) | (lib.SVQ_BE_DIRECT_IO if direct_io else 0)
        flags |= (lib.SVQ_BE_SHAREABLE if shareable else 0) | (lib.SVQ_BE_FLUSH_FAILED if flush_failed else 0)
        rc = lib.svq_be_open_image(str(path).encode(), flags, out, self.info)
        if rc < 0:
            kind = ImageBusy if rc == -errno.EBUSY else ImageError
            raise kind(str(path), ffi.string(lib.svq_be_why()).decode())
        self.handle: Any = out[0]
        try:
            self._stat = path.stat()  # now, because later this may hang
        except OSError as error:
            self.close()
            raise ImageError(str(path), f"image {path}: {error.strerror}") from error

    @property
    def flush_failed(self) -> bool:
        """Whether a flush has failed. Linux reports a lost write only once, so from then on every flush fails."""
        return self.handle is not None and self._library.lib.svq_be_flush_failed(self.handle) == 1

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to this image, also by a link, or by another node of the same block device."""
        try:
            one, other = self._stat, path.stat()
        except OSError:
            return False
        same_device = S_ISBLK(one.st_mode) and S_ISBLK(other.st_mode) and one.st_rdev == other.st_rdev
        return same_device or os.path.samestat(one, other)

    def measure(self) -> int:
        """Returns how many bytes the image has now, as does `offer` from then on. ImageError: all stays as it was."""
        ffi, lib = self._library.ffi, self._library.lib
        if lib.svq_be_measure_image(self.handle, str(self._path).encode(), self.info) < 0:
            raise ImageError(str(self._path), ffi.string(lib.svq_be_why()).decode())
        return int(self.info.capacity)

    def offer(self, queues: int, queue_size_max: int) -> tuple[bytes, int]:
        """The configuration space and the feature bits to offer."""
        ffi, lib = self._library.ffi, self._library.lib
        config, features = ffi.new("uint8_t[]", int(lib.SVQ_BE_CONFIG_BYTES)), ffi.new("uint64_t *")
        rc = lib.svq_be_config_space(self.info, queues, queue_size_max, config, len(config), features)
        self._library.check(rc, "config_space")
        return bytes(ffi.buffer(config)), int(features[0])

    def close(self) -> None:
        """Closes the image. Safe to call twice."""
        if self.handle is not None:
            self._library.lib.svq_be_close_image(self.handle)
            self.handle = None


@dataclass(frozen=True)
class RingRefs:
    """One shadow ring: grant references of the mediator for each page, and the port to bind."""

    size: int
    desc: Sequence[int]
    avail: Sequence[int]
    used: Sequence[int]
    port: int


@dataclass(frozen=True)
class BlkConfig:
    """What was settled on leg 2."""

    features: int
    mediator_domid: int
    window_owner: int
    window_first: int
    window_count: int
    queues: int
    serial: str
    poll_us: int = 20
    copy_pages: int = 0  # SVQ_BE_COPY_AUTO: as measured


@dataclass(frozen=True)
class Crossover:
    """
    What the hypervisor's own copy costs on this host beside a mapping, in nanoseconds, and up to how many pages it is
    the cheaper one. `error`: the errno for which nothing could be measured, ENOSYS where there is no such copy; or 0.
    """

    map_ns: int
    copy_ns: int
    copy_16_ns: int
    pages: int
    error: int


class BlkDevice:
    """A running block device: a thread of its own that serves all its queues."""

    def __init__(self, hypervisor: Hypervisor, image: Image, config: BlkConfig) -> None:
        self._library = hypervisor.library
        ffi, lib = self._library.ffi, self._library.lib
        c = ffi.new("struct svq_be_config *")
        c.features, c.mediator_domid, c.queues = config.features, config.mediator_domid, config.queues
        c.window_owner, c.window_first, c.window_count = config.window_owner, config.window_first, config.window_count
        c.poll_us, c.copy_pages, c.serial = config.poll_us, config.copy_pages, config.serial.encode()
        out = ffi.new("struct svq_be_device **")
        self._check(lib.svq_be_create(hypervisor.handle, image.handle, c, out), "be_create")
        self.handle: Any = out[0]
        self.error_fd: int = lib.svq_be_error_fd(self.handle)

    def attach(self, index: int, refs: RingRefs) -> None:
        """Maps a shadow ring. HypervisorError: the mediator's grants are not what it said."""
        ffi, lib = self._library.ffi, self._library.lib
        desc, avail, used = (ffi.new("uint32_t[]", list(part)) for part in (refs.desc, refs.avail, refs.used))
        rc = lib.svq_be_queue_attach(self.handle, index, refs.size, desc, avail, used, refs.port)
        self._check(rc, "be_queue_attach")

    def crossover(self) -> Crossover:
        """What was measured when the first queue was attached; all 0 unless `copy_pages` is SVQ_BE_COPY_AUTO."""
        found = self._library.ffi.new("struct svq_be_crossover *")
        self._library.lib.svq_be_read_crossover(self.handle, found)
        return Crossover(found.map_ns, found.copy_ns, found.copy_16_ns, found.pages, -found.error)

    def start(self) -> None:
        """Serves requests from now on."""
        self._check(self._library.lib.svq_be_start(self.handle), "be_start")

    def set_capacity(self, capacity_bytes: int) -> None:
        """Checks requests against this size of the image from now on."""
        self._library.lib.svq_be_set_capacity(self.handle, capacity_bytes)

    def fault(self) -> DeviceBroken | None:
        """Why a queue stopped, or None while all run."""
        error = self._library.ffi.new("struct svq_be_error *")
        if self._library.lib.svq_be_read_error(self.handle, error) != 1:
            return None
        code, text = (
            self._library.ffi.string(string).decode()
            for string in (self._library.lib.svq_be_fault_name(error.fault), error.text)
        )
        return DeviceBroken(code, queue=int(error.queue), reason=text)

    def hold(self, on: bool) -> None:
        """
        While on, requests are taken and mapped (never copied), but not executed, so that one can look at what is live.
        """
        self._check(self._library.lib.svq_be_hold(self.handle, on), "be_hold")

    def live_parts(self) -> list[LivePart]:
        """The buffers of all requests that are live now."""
        parts = self._library.ffi.new("struct svq_be_part[]", _PARTS_MAX)
        count = self._check(self._library.lib.svq_be_live_parts(self.handle, parts, _PARTS_MAX), "be_live_parts")
        return [
            LivePart(p.gref, p.offset, p.length, p.owner, p.queue, p.head, bool(p.writable))
            for p in parts[0 : min(count, _PARTS_MAX)]
        ]

    def stats(self) -> dict[str, int]:
        """struct svq_be_stats."""
        stats = self._library.ffi.new("struct svq_be_stats *")
        self._library.lib.svq_be_read_stats(self.handle, stats)
        return struct_to_dict(self._library, stats)

    def close(self) -> None:
        """Ends the requests in flight and unmaps everything. Safe to call twice."""
        if self.handle is not None:
            self._library.lib.svq_be_destroy(self.handle)
            self.handle = None

    def _check(self, rc: int, call: str) -> int:
        if rc < 0:
            raise HypervisorError(
                f"{call} ({self._library.ffi.string(self._library.lib.svq_be_why()).decode()})", None, -rc
            )
        return rc
