# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a backend domain can reach, tried from within: every page by foreign mapping, and every grant reference.

Pages of the frontend carry tags that say where they are from, so that whatever is found can be traced to its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.native import load

PAGE = 4096
TAG_BYTES = 16
FRAMES_A_CALL = 256


@dataclass
class Reach:
    """
    What was tried and what was found. `tags`: [frame, offset] of each piece of frontend memory that was seen.
    `cleared_pages` have only zeros, like pages that a request lets the backend write, before it has written anything.
    """

    frames_tried: int = 0
    frames_allowed: int = 0
    grefs_tried: int = 0
    frontend_grefs_mapped: int = 0
    frontend_grefs_writable: int = 0
    mediator_grefs_mapped: int = 0
    frontend_frames: list[int] = field(default_factory=list)
    writable_frames: list[int] = field(default_factory=list)
    tags: list[list[int]] = field(default_factory=list)
    cleared_pages: int = 0
    untagged_pages: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain data for the demo's channel."""
        return asdict(self)


class Prober:
    """Probes from the domain of `hypervisor` (an open handle of the backend's library)."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._ffi, self._lib = hypervisor.library.ffi, hypervisor.library.lib
        driver = load("driver")  # only to recognise tags
        self._tag_ffi, self._tag_lib = driver.ffi, driver.lib
        self._gfn, self._offset = driver.ffi.new("uint64_t *"), driver.ffi.new("uint32_t *")
        self._at = driver.ffi.new("size_t *")

    def probe(
        self, frontend: int, frontend_frames: int, frontend_grefs: int, mediator: int, mediator_grefs: int
    ) -> Reach:
        """Tries everything once."""
        reach = Reach()
        for first in range(0, frontend_frames, FRAMES_A_CALL):
            count = min(FRAMES_A_CALL, frontend_frames - first)
            reach.frames_tried += count
            reach.frames_allowed += self._foreign(frontend, first, count)
        for gref in range(frontend_grefs):
            reach.grefs_tried += 1
            self._try_frontend_gref(frontend, gref, reach)
        for gref in range(mediator_grefs):
            reach.grefs_tried += 1
            page = self.map(mediator, gref, writable=False)
            if page is not None:
                reach.mediator_grefs_mapped += 1
                reach.tags += self._tags(page)
                self.unmap(page)
        return reach

    def _try_frontend_gref(self, frontend: int, gref: int, reach: Reach) -> None:
        page = self.map(frontend, gref, writable=False)
        if page is None:
            return
        reach.frontend_grefs_mapped += 1
        tags, empty = self._tags(page), not any(self._ffi.buffer(page, PAGE)[:])
        self.unmap(page)
        writable = self.map(frontend, gref, writable=True)
        if writable is not None:
            reach.frontend_grefs_writable += 1
            self.unmap(writable)
        if not tags:
            reach.cleared_pages += empty
            reach.untagged_pages += not empty
            return
        reach.tags += tags
        reach.frontend_frames.append(tags[0][0])
        if writable is not None:
            reach.writable_frames.append(tags[0][0])

    def see(
        self,
        frontend: int,
        frontend_frames: int,
        frontend_grefs: Iterable[int],
        mediator: int,
        mediator_grefs: int,
        seed: int,
    ) -> set[int]:
        """Frames of the frontend of which this domain sees a tag with that seed in any way, or which it may map."""
        seen: set[int] = set()
        for first in range(0, frontend_frames, FRAMES_A_CALL):
            count = min(FRAMES_A_CALL, frontend_frames - first)
            if self._foreign(frontend, first, count):
                seen |= set(range(first, first + count))
        for domid, grefs in ((frontend, frontend_grefs), (mediator, range(mediator_grefs))):
            for gref in grefs:
                page = self.map(domid, gref, writable=False)
                if page is not None:
                    seen |= self.frames_on(page, seed)
                    self.unmap(page)
        return seen

    def frames_on(self, page: Any, seed: int) -> set[int]:
        """Frames of which there is a tag with that seed on a page."""
        return {gfn for gfn, _, of in self._all_tags(page) if of == seed}

    def _foreign(self, domid: int, first: int, count: int) -> int:
        """How many of these frames can be mapped, each judged by itself."""
        va, errs = self._ffi.new("void **"), self._ffi.new("int[]", count)
        frames = list(range(first, first + count))
        rc = self._lib.svq_hv_map_foreign(self._hypervisor.handle, domid, frames, count, 0, errs, va)
        if rc < 0:
            return 0
        self._lib.svq_hv_unmap_foreign(self._hypervisor.handle, va[0], count)
        return sum(error == 0 for error in errs)

    def map(self, domid: int, gref: int, *, writable: bool) -> Any:
        """Maps the page of a grant; None: it cannot be mapped."""
        va = self._ffi.new("void **")
        rc = self._lib.svq_hv_map_grants(self._hypervisor.handle, domid, [gref], 1, writable, va)
        return va[0] if rc == 0 else None

    def unmap(self, page: Any) -> None:
        """Unmaps such a page."""
        self._lib.svq_hv_unmap_grants(self._hypervisor.handle, page, 1)

    def _tags(self, page: Any) -> list[list[int]]:
        return [[gfn, offset] for gfn, offset, _ in self._all_tags(page)]

    def _all_tags(self, page: Any) -> list[tuple[int, int, int]]:
        """Every tag in a page, at any byte offset: frame, offset and seed."""
        content = self._ffi.buffer(page, PAGE)[:]
        buffer = self._tag_ffi.from_buffer(content)
        found: list[tuple[int, int, int]] = []
        start = 0
        while start + TAG_BYTES <= PAGE:
            self._at[0] = 0
            seed = self._tag_lib.svq_tag_find(buffer + start, PAGE - start, self._at, self._gfn, self._offset)
            if seed < 0:
                break
            found.append((int(self._gfn[0]), int(self._offset[0]), int(seed)))
            start += int(self._at[0]) + TAG_BYTES
        return found
