# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk I/O that checks itself: on the calling thread, or on one of its own until told to stop."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from domU_frontend import blk
from domU_frontend.blk import PAGE, Request, Result
from domU_frontend.frontend import Frontend
from xen_shadowvq.errors import HypervisorError
from xen_shadowvq.native import load

if TYPE_CHECKING:
    from .world import World

SECTOR = 512
LENGTHS = (512, 4096, 16384, 20480, 65536)
BATCH = 12
DEPTH = 8
MORE_ROUNDS = 5


class Wrong(Exception):
    """The disk did not do what it should."""


def batch(frontend: Frontend, kind: int, first_sector: int, lengths: Sequence[int]) -> list[Request]:
    """Requests for consecutive sectors, their buffers one after another from the first data page on."""
    at, sector, requests = frontend.driver.gpa(frontend.driver.data_first_page), first_sector, []
    for length in lengths:
        requests.append(Request(kind, sector, at, length, segments=min(3, length // SECTOR)))
        at += -(-length // PAGE) * PAGE + SECTOR  # not all are aligned to pages
        sector += length // SECTOR
    return requests


def run(frontend: Frontend, requests: Sequence[Request], progress: object = None) -> None:
    """Does the requests. Wrong: one of them failed."""
    bad = [r for r in frontend.driver.run(requests, DEPTH, progress) if r.status != blk.STATUS_OK or r.error]
    if bad:
        raise Wrong(f"a request ended with {bad[0]}")


def one(frontend: Frontend, kind: int, sector: int, length: int = PAGE) -> Result:
    """A single request, and what became of it."""
    return frontend.driver.run(batch(frontend, kind, sector, [length]), 1)[0]


def write_and_compare(frontend: Frontend, generator: random.Random, first_sector: int, progress: object = None) -> None:
    """Writes random blocks, wipes the buffers, reads back, compares checksums. Wrong: they differ."""
    lengths = [generator.choice(LENGTHS) for _ in range(BATCH)]
    writes = batch(frontend, blk.OUT, first_sector, lengths)
    for request in writes:
        frontend.driver.memory(request.buffer, request.length)[:] = generator.randbytes(request.length)
    expected = _digest(frontend, writes)
    run(frontend, writes, progress)
    for request in writes:
        frontend.driver.memory(request.buffer, request.length)[:] = bytes(request.length)
    run(frontend, batch(frontend, blk.IN, first_sector, lengths), progress)
    if _digest(frontend, writes) != expected:
        raise Wrong(f"other bytes were read from sector {first_sector} on than were written")


def read_digest(frontend: Frontend, length: int) -> str:
    """SHA-256 of the first `length` bytes of the disk, read in pieces of 64 KiB."""
    digest, step = hashlib.sha256(), 65536
    for offset in range(0, length, step):
        requests = batch(frontend, blk.IN, offset // SECTOR, [min(step, length - offset)])
        run(frontend, requests)
        digest.update(frontend.driver.memory(requests[0].buffer, requests[0].length))
    return digest.hexdigest()


def _digest(frontend: Frontend, requests: Sequence[Request]) -> str:
    digest = hashlib.sha256()
    for request in requests:
        digest.update(frontend.driver.memory(request.buffer, request.length))
    return digest.hexdigest()


class IoLoop:
    """`write_and_compare` over and over on a thread of its own. `rounds` says how often it came out right."""

    def __init__(self, frontend: Frontend, seed: int = 1, sectors: int = 4096, pause_s: float = 0.0) -> None:
        self.rounds = 0
        self.failure: str | None = None
        self._frontend = frontend
        self._random = random.Random(seed)
        self._room = sectors - BATCH * max(LENGTHS) // SECTOR
        self._progress = frontend.driver.new_progress()
        self._pause_s = pause_s
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"io-{frontend.domid}")
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            try:
                write_and_compare(self._frontend, self._random, self._random.randrange(self._room), self._progress)
            except (HypervisorError, Wrong) as error:
                if not self._stopping:
                    self.failure = str(error)
                return
            self.rounds += 1
            time.sleep(self._pause_s)  # leaves some of the processor to others

    def stop(self) -> None:
        """Ends it after the round under way. Wrong: a round did not come out right."""
        self._stopping = True
        self._thread.join()
        if self.failure is not None:
            raise Wrong(self.failure)

    def abandon(self) -> None:
        """Ends it at once and leaves requests under way to a device that may be dead."""
        self._stopping = True
        self._progress.stop = load("driver").lib.SVQ_DRV_STOP_NOW
        self._thread.join()


def goes_on(world: World, loop: IoLoop, rounds: int = MORE_ROUNDS) -> None:
    """Waits for more rounds that come out right."""
    target = loop.rounds + rounds
    world.until(lambda: loop.rounds >= target or loop.failure, "further I/O")
    assert loop.failure is None
