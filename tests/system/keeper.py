# SPDX-License-Identifier: GPL-2.0-or-later
"""A backend's domain that keeps what it was given: it maps pages of requests in flight beside its honest service."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Self

from domU_frontend import blk
from domU_frontend.blk import PAGE, Request
from domU_frontend.frontend import Frontend
from xen_shadowvq.domain import hypervisor_socket
from xen_shadowvq.errors import HypervisorError
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.native import load

from .world import BACKEND, FRONTEND, World


class Keeper:
    """Maps grants of a frontend from within the backend's domain, which it keeps alive; as a context manager."""

    def __init__(self, world: World, frontend: int = FRONTEND, domid: int = BACKEND) -> None:
        self._hypervisor = Hypervisor("backend", hypervisor_socket(world.sim, domid))
        self._observer, self._domid = world.observer, domid
        self._ffi, self._lib = self._hypervisor.library.ffi, self._hypervisor.library.lib
        self._frontend = frontend
        self._kept: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._observer.lets_go(self._domid)
        self._hypervisor.close()

    def keep(self, grefs: Sequence[int]) -> None:
        """Maps these, writable, and keeps them. They belong to requests in flight."""
        pages = [self._map(gref) for gref in grefs]
        assert all(page is not None for page in pages)
        self._kept += pages
        for gref in grefs:
            self._observer.keeps(self._domid, self._frontend, gref)

    def let_go(self) -> None:
        """Unmaps all that it kept."""
        self._observer.lets_go(self._domid)
        for page in self._kept:
            self._lib.svq_hv_unmap_grants(self._hypervisor.handle, page, 1)
        self._kept.clear()

    def reachable(self, grefs: Sequence[int]) -> list[int]:
        """Those of the references that can be mapped now, read-only at least."""
        return [gref for gref in grefs if self._can_map(gref)]

    def _can_map(self, gref: int) -> bool:
        page = self._map(gref, writable=False)
        if page is not None:
            self._lib.svq_hv_unmap_grants(self._hypervisor.handle, page, 1)
        return page is not None

    def _map(self, gref: int, *, writable: bool = True) -> Any:
        va = self._ffi.new("void **")
        rc = self._lib.svq_hv_map_grants(self._hypervisor.handle, self._frontend, [gref], 1, writable, va)
        return va[0] if rc == 0 else None


class InFlight:
    """
    One read request of whole pages that the backend's service, being stopped, does not answer. `grefs`: of its pages,
    in a direct window.
    """

    def __init__(self, world: World, frontend: Frontend, device: int, pages: int = 16) -> None:
        self.failure: str | None = None
        self._driver = frontend.driver
        self._progress = frontend.driver.new_progress()
        first = -(-frontend.driver.gpa(frontend.driver.data_first_page) // PAGE)
        world.backend.stop()
        request = Request(blk.IN, 0, first * PAGE, pages * PAGE, segments=pages // 2)
        self._thread = threading.Thread(target=self._run, args=([request],))
        self._thread.start()
        world.unfinished.append(self.abandon)
        world.until(lambda: world.status(device)["window_in_use"] >= pages, "grants of the request")
        found = world.found(device)
        window = world.store.read(f"/local/domain/{found.mediator}/device/svq/{found.handle}/window-first")
        self.grefs = [int(window or 0) + first + page for page in range(pages)]

    def abandon(self) -> None:
        """The driver leaves it to the device."""
        self._progress.stop = load("driver").lib.SVQ_DRV_STOP_NOW
        self._thread.join()

    def _run(self, requests: list[Request]) -> None:
        try:
            self._driver.run(requests, 1, self._progress)
        except HypervisorError as error:
            self.failure = str(error)
