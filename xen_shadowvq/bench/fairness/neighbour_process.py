# SPDX-License-Identifier: GPL-2.0-or-later
"""
The frontend whose latencies are measured: one honest request of 4 KiB after another, each due at a fixed time.

If an earlier request was late, a latency counts from when its own request was due. So a pause of the worker counts for
each request that an application would have made meanwhile, and not only for the one that was under way.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from pathlib import Path
from typing import Any

from domU_frontend import blk
from domU_frontend.blk import PAGE, Request
from domU_frontend.frontend import Frontend
from xen_shadowvq import log
from xen_shadowvq.bench.fairness.assailant import PATIENCE_S
from xen_shadowvq.errors import HypervisorError
from xen_shadowvq.rpc import serve

_PAGES = 2048
_BUFFERS = 256  # pages that requests go to, in turn
_SECTORS = PAGE // 512
_NS_PER_S = 1_000_000_000
_NS_PER_US = 1000
_EIO = 5


class NeighbourProcess:
    """What the benchmark can ask of it. Return values are plain JSON."""

    def __init__(self, sim: tuple[Path, int], device: int) -> None:
        timeout_ms = int(PATIENCE_S * 1000)
        self._frontend = Frontend(device, sim=sim, pages=_PAGES, poll_us=0, timeout_ms=timeout_ms)
        self._driver = self._frontend.driver
        self._random = random.Random(1)  # noqa: S311 - which blocks, not a secret
        self._base = self._driver.gpa(self._driver.data_first_page)

    def connect(self) -> dict[str, Any]:
        """Connects."""
        self._frontend.connect(PATIENCE_S)
        return {}

    def measure(self, requests: int, interval_us: int, most_s: float) -> dict[str, Any]:
        """
        Makes `requests` reads and writes in turn, one due every `interval_us`, for at most `most_s` seconds. Those that
        were due by then and not made, `unserved`, count with the time that they have waited so far; in truth it would
        be longer.
        """
        todo = [self._request(turn) for turn in range(requests)]
        gc.disable()
        try:
            latencies, unserved = self._run(todo, interval_us * _NS_PER_US, int(most_s * _NS_PER_S))
        finally:
            gc.enable()
        return {"latencies_us": [ns / _NS_PER_US for ns in sorted(latencies + unserved)], "unserved": len(unserved)}

    def _request(self, turn: int) -> Request:
        sector = self._random.randrange(self._frontend.geometry.sectors // _SECTORS) * _SECTORS
        kind = blk.OUT if turn % 2 else blk.IN
        return Request(kind, sector, self._base + turn % _BUFFERS * PAGE, PAGE)

    def _run(self, requests: list[Request], interval_ns: int, most_ns: int) -> tuple[list[int], list[int]]:
        latencies: list[int] = []
        start = now = time.monotonic_ns()
        for turn, request in enumerate(requests):
            due = start + turn * interval_ns
            if now - start > most_ns:
                return latencies, [now - late for late in range(due, now, interval_ns)]
            if now < due:
                time.sleep((due - now) / _NS_PER_S)
            (result,) = self._driver.run([request], 1)
            if (result.error, result.status) != (0, blk.STATUS_OK):
                raise HypervisorError(f"{request}, which ended with {result},", None, _EIO)
            latencies.append(max(0, now - due) + result.latency_ns)
            now = time.monotonic_ns()
        return latencies, []


def main() -> None:
    """usage: python -m xen_shadowvq.bench.fairness.neighbour_process DIRECTORY DOMID DEVICE"""
    log.configure("info", "json", sys.stderr)
    directory, domid, device = sys.argv[1:]
    serve(NeighbourProcess((Path(directory), int(domid)), int(device)))


if __name__ == "__main__":
    main()
