# SPDX-License-Identifier: GPL-2.0-or-later
"""A backend's domain that keeps what requests let it map, for longer than the requests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dom0_backend.probe import PAGE, Prober
from xen_shadowvq.hypervisor import Hypervisor

SCRIBBLE = b"written by a backend that kept the page "


@dataclass(frozen=True)
class _Kept:
    page: Any
    writable: bool


class Keeper:
    """Keeps pages that the frontend granted, through a handle of its own (of the backend's library)."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._prober = Prober(hypervisor)
        self._kept: list[_Kept] = []

    def keep(self, frontend: int, grefs: Iterable[int], count: int) -> int:
        """
        Maps up to `count` of the pages granted now, spread over them, writable if allowed; returns how many it keeps.
        """
        open_grefs = [gref for gref in grefs if self._is_open(frontend, gref)]
        step = max(1, len(open_grefs) // count)
        for gref in open_grefs[step // 2 :: step][:count]:
            for writable in (True, False):
                page = self._prober.map(frontend, gref, writable=writable)
                if page is not None:
                    self._kept.append(_Kept(page, writable))
                    break
        return len(self._kept)

    def scribble(self) -> int:
        """Writes over what it keeps, as far as it may; returns the number of pages written."""
        for kept in self._kept:
            if kept.writable:
                self._hypervisor.library.ffi.buffer(kept.page, PAGE)[:] = (SCRIBBLE * PAGE)[:PAGE]
        return sum(kept.writable for kept in self._kept)

    def see(self, seed: int) -> set[int]:
        """Frames of the frontend of which a kept page shows a tag with that seed."""
        return {frame for kept in self._kept for frame in self._prober.frames_on(kept.page, seed)}

    def let_go(self) -> None:
        """Unmaps everything."""
        while self._kept:
            self._prober.unmap(self._kept.pop().page)

    def _is_open(self, frontend: int, gref: int) -> bool:
        page = self._prober.map(frontend, gref, writable=False)
        if page is not None:
            self._prober.unmap(page)
        return page is not None
