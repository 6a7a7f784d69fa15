# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's frontend domain: a process with memory of its own and the user-space virtio-blk driver."""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
import threading
from pathlib import Path
from typing import Any

from domU_frontend import blk
from domU_frontend.blk import PAGE, Request, Result
from domU_frontend.frontend import Frontend
from xen_shadowvq import log
from xen_shadowvq.errors import HypervisorError
from xen_shadowvq.native import load
from xen_shadowvq.rpc import report_progress, serve

DEPTH = 32
SECTOR = 512
PAGES_PER_MIB = 256
SIZES = (512, 1024, 2048, 4096, 4096, 4096, 8192, 16384, 65536, 131072, 262144, 1 << 20)
PROGRESS_S = 0.1
INDIRECT_SHARE = 0.9
DRIVER_SEGMENTS_MAX = 62
SEED_OF_TAGS = 7
SEED_OF_USES = 1000
CLOSE_S = 60.0
HELD_SPECS = (  # offset in a page, bytes: whole pages, ends, fragments, and across page borders
    (0, 4096),
    (0, 65536),
    (512, 8192),
    (100, 512),
    (4000, 512),
    (1, 12800),
    (3584, 512),
    (0, 1 << 20),
)


class FrontendProcess:
    """What the demo can ask of the frontend. Return values are plain JSON."""

    def __init__(
        self, sim: tuple[Path, int] | None, device: int, memory_mib: int, seed: int, timeout_ms: int = 0
    ) -> None:
        pages = memory_mib * PAGES_PER_MIB
        self._frontend = Frontend(device, sim=sim, pages=pages, queue_size=256, timeout_ms=timeout_ms)
        self._driver = self._frontend.driver
        self._random = random.Random(seed)  # noqa: S311 - a mix of sizes, not a secret
        self._first_page = self._driver.data_first_page
        self._buffer_bytes = self._driver.data_pages * PAGE
        self._base = self._driver.gpa(self._first_page)
        frames = [self._driver.gpa(self._first_page + page) for page in range(self._driver.data_pages)]
        self._frames_follow = frames == list(range(self._base, self._base + self._buffer_bytes, PAGE))
        self._latencies: list[int] = []
        self._data_bytes = 0
        self._requests = 0
        self._kept = b""
        self._held: threading.Thread | None = None
        self._held_results: list[Result] = []
        self._held_progress = self._driver.new_progress()
        self._uses = 0  # of memory that came back

    def connect(self, timeout_s: float = 10.0) -> dict[str, Any]:
        """Connects; returns the disk's geometry and the domain's memory."""
        self._frontend.connect(timeout_s)
        geometry = self._frontend.geometry
        return {"sectors": geometry.sectors, "segments_max": geometry.segments_max, "features": self._frontend.features}

    def read_all(self) -> dict[str, Any]:
        """Reads the whole disk in mixed sizes, aligned and not; returns its SHA-256."""
        digest, sector, total = hashlib.sha256(), 0, self._frontend.geometry.sectors
        while sector < total:
            batch = self._batch(blk.IN, sector, total)
            self._run(batch, sector * SECTOR)
            for request in batch:
                digest.update(self._driver.memory(request.buffer, request.length))
            sector += sum(request.length for request in batch) // SECTOR
        return {"sha256": digest.hexdigest()}

    def write_region(self, offset: int, length: int) -> dict[str, Any]:
        """Writes random bytes to a region, flushes, and reads them back; returns both SHA-256s."""
        data = self._random.randbytes(length)
        self._write(offset, data)
        return {"written": hashlib.sha256(data).hexdigest(), "read_back": self._read(offset, length)}

    def keep_region(self, offset: int, length: int) -> dict[str, Any]:
        """Reads a region and keeps it for `restore_region`."""
        digest = self._read(offset, length)
        self._kept = bytes(self._driver.memory(self._base, length))
        return {"sha256": digest}

    def restore_region(self, offset: int) -> dict[str, Any]:
        """Writes back what `keep_region` kept."""
        self._write(offset, self._kept)
        return {"sha256": self._read(offset, len(self._kept))}

    def special_requests(self, offset: int, length: int) -> dict[str, Any]:
        """WRITE_ZEROES, DISCARD, GET_ID, and a request beyond the end; returns what became of each."""
        sector, sectors = offset // SECTOR, length // SECTOR
        segment = sector.to_bytes(8, "little") + sectors.to_bytes(4, "little") + (0).to_bytes(4, "little")
        self._driver.memory(self._base, 16)[:] = segment
        zeroes = self._one(Request(blk.WRITE_ZEROES, 0, self._base, 16))
        zeroed = self._read(offset, length) == hashlib.sha256(bytes(length)).hexdigest()
        self._driver.memory(self._base, 16)[:] = segment
        discard = self._one(Request(blk.DISCARD, 0, self._base, 16))
        get_id = self._one(Request(blk.GET_ID, 0, self._base, 20))
        serial = bytes(self._driver.memory(self._base, 20)).rstrip(b"\0").decode(errors="replace")
        beyond = self._one(Request(blk.IN, self._frontend.geometry.sectors, self._base, PAGE))
        after = self._one(Request(blk.IN, 0, self._base, PAGE))
        return {
            "write_zeroes": zeroes.status,
            "zeroes_read_back": zeroed,
            "discard": discard.status,
            "get_id": get_id.status,
            "serial": serial,
            "out_of_range": beyond.status,
            "next_request": after.status,
        }

    def start_held(self, offset: int) -> dict[str, Any]:
        """
        Fills all free memory with tags and submits requests for the disk at `offset`, which the backend holds; they
        stay within what `keep_region` has kept there, if anything. Returns the buffers that are described to the
        device, as [guest physical address, bytes, device may write].
        """
        self._driver.fill_tags(self._first_page, self._driver.data_pages, SEED_OF_TAGS)
        requests: list[Request] = []
        described: list[list[int]] = []
        page = 0
        for kind in (blk.OUT, blk.IN):
            for start, most in HELD_SPECS:
                buffer = self._gpa(page * PAGE + start)
                length = min(most, self._length_max, len(self._kept) or most)
                requests.append(Request(kind, offset // SECTOR, buffer, length, self._segments(length)))
                described += self._describe(page, start, length, kind == blk.IN)
                page += (start + length) // PAGE + 2  # a tagged page stays free on either side
        self._held_progress = self._driver.new_progress()
        self._held = threading.Thread(target=self._run_held, args=(requests,))
        self._held.start()
        return {"buffers": described, "requests": len(requests)}

    def finish_held(self) -> dict[str, Any]:
        """Waits for the requests of `start_held`; returns the statuses they ended with."""
        if self._held:
            self._held.join()
        return {"statuses": sorted({result.status for result in self._held_results}), "count": len(self._held_results)}

    def wait_held_pages(self, at_most: int) -> dict[str, Any]:
        """Waits until the device is Closing with at most that many held pages, or Closed; returns how many."""
        return {"pages": self._frontend.wait_held(at_most, CLOSE_S)}

    def leave_held(self) -> dict[str, Any]:
        """Leaves the requests of `start_held` to a device that is about to close; returns what became of them."""
        self._held_progress.stop = load("driver").lib.SVQ_DRV_STOP_NOW
        if self._held:
            self._held.join()
        return {"completed": int(self._held_progress.requests_done), "waiting": self._driver.given}

    def use_own(self) -> dict[str, Any]:
        """Uses all memory that is our own for tags with a seed that was never used before; returns the seed."""
        self._uses += 1
        return {"seed": SEED_OF_USES + self._uses, "pages": self._driver.use_own(SEED_OF_USES + self._uses)}

    def own_changed(self, seed: int) -> dict[str, Any]:
        """How many of the pages of `use_own` somebody has changed since."""
        return {"pages": self._driver.own_changed(seed)}

    def wait_closed(self) -> dict[str, Any]:
        """Waits until the mediator says Closed."""
        self._frontend.wait_closed(CLOSE_S)
        return {}

    def reconnect(self) -> dict[str, Any]:
        """Begins a new round."""
        self._frontend.reconnect(CLOSE_S)
        return {}

    def counters(self) -> dict[str, Any]:
        """The driver's counters, and latencies in ns of all requests so far."""
        return {
            **self._driver.counters(),
            "requests": self._requests,
            "data_bytes": self._data_bytes,
            "latencies_ns": self._latencies,
        }

    def disconnect(self) -> dict[str, Any]:
        """Closes the device."""
        self._frontend.disconnect()
        return {}

    def close(self) -> None:
        """Releases the domain's memory."""
        self._frontend.__exit__(None, None, None)

    def _describe(self, page: int, start: int, length: int, device_writes: bool) -> list[list[int]]:
        """
        A buffer, page by page: on real Xen, frames that are consecutive in memory need not have consecutive numbers.
        """
        ends = [*range(PAGE - start, length, PAGE), length]
        pieces = zip([0, *ends], ends, strict=False)
        return [[self._gpa(page * PAGE + start + at), end - at, device_writes] for at, end in pieces]

    # ---- helpers ---------------------------------------------------------------------------------------------------

    def _batch(self, kind: int, sector: int, end: int) -> list[Request]:
        """Requests for consecutive sectors with buffers one after another, at odd places now and then."""
        requests: list[Request] = []
        at = 0
        while sector < end:
            length = min(self._random.choice(SIZES), (end - sector) * SECTOR, self._length_max)
            at += self._random.choice((0, 0, -at % PAGE, 16, 512, 1000, 1))
            if at + length > self._buffer_bytes:
                break
            segments = min(self._random.choice((1, 1, 1, 2, 5)), max(1, length // SECTOR))
            indirect = self._random.random() < INDIRECT_SHARE
            requests.append(Request(kind, sector, self._gpa(at), length, self._segments(length, segments), indirect))
            at += length
            sector += length // SECTOR
        return requests

    def _run(self, requests: list[Request], done_before: int) -> list[Result]:
        progress = self._driver.new_progress()
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(PROGRESS_S):
                report_progress(done_before + int(progress.bytes_done))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            results = self._driver.run(requests, DEPTH, progress)
        finally:
            stop.set()
            watcher.join()
        self._latencies += [result.latency_ns for result in results]
        self._requests += len(requests)
        self._data_bytes += sum(request.length for request in requests)
        bad = [(q, r) for q, r in zip(requests, results, strict=True) if r.status != blk.STATUS_OK or r.error]
        if bad:
            raise HypervisorError(f"request {bad[0][0]} ended with {bad[0][1]}", None, 5)
        return results

    def _one(self, request: Request) -> Result:
        self._requests += 1
        self._data_bytes += request.length
        result = self._driver.run([request], 1)[0]
        self._latencies.append(result.latency_ns)
        return result

    def _write(self, offset: int, data: bytes) -> None:
        sector = offset // SECTOR
        batch = self._batch(blk.OUT, sector, sector + len(data) // SECTOR)
        done = 0
        for request in batch:
            self._driver.memory(request.buffer, request.length)[:] = data[done : done + request.length]
            done += request.length
        if done != len(data):
            raise ValueError(f"{len(data)} bytes do not fit the frontend's memory at once")
        self._run(batch, 0)
        self._run([Request(blk.FLUSH)], 0)

    def _read(self, offset: int, length: int) -> str:
        self._run(self._split(blk.IN, offset // SECTOR, length), 0)
        return hashlib.sha256(self._driver.memory(self._base, length)).hexdigest()

    @property
    def _length_max(self) -> int:
        """The most bytes of one request: what the device allows (virtio 5.2.4) and the driver's tables hold."""
        geometry = self._frontend.geometry
        size = geometry.size_max // SECTOR * SECTOR
        segments = min(geometry.segments_max, DRIVER_SEGMENTS_MAX) // 2
        return min(1 << 20, segments * (size if self._frames_follow else min(size, PAGE)))

    def _segments(self, length: int, wanted: int = 1) -> int:
        """Segments for that many bytes, so that none is longer than size_max."""
        size = self._frontend.geometry.size_max // SECTOR * SECTOR
        return max(wanted, -(-length // (size - SECTOR)) if length > size else 1)

    def _gpa(self, at: int) -> int:
        """Guest physical address of byte `at` of the buffers; the frames of a buffer need not be consecutive."""
        return self._driver.gpa(self._first_page + at // PAGE) + at % PAGE

    def _split(self, kind: int, sector: int, total: int) -> list[Request]:
        """Requests for `total` bytes at the start of the buffers."""
        step = self._length_max
        lengths = ((at, min(step, total - at)) for at in range(0, total, step))
        return [
            Request(kind, sector + at // SECTOR, self._gpa(at), length, self._segments(length))
            for at, length in lengths
        ]

    def _run_held(self, requests: list[Request]) -> None:
        with contextlib.suppress(HypervisorError):  # the device is gone: `leave_held` asks what became of them
            self._held_results = self._driver.run(requests, len(requests), self._held_progress)


def main() -> None:
    """usage: python -m domU_frontend.process DIRECTORY DOMID DEVICE MEMORY_MIB SEED"""
    log.configure("info", "json", sys.stderr)
    directory, domid, device, memory_mib, seed = sys.argv[1:]
    serve(FrontendProcess((Path(directory), int(domid)), int(device), int(memory_mib), int(seed)))


if __name__ == "__main__":
    main()
