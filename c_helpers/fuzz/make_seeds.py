# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the seed corpus of fuzz_chain: `make_seeds.py FOLDER`. The input's format: fuzz_chain.c."""

from __future__ import annotations

import sys
from pathlib import Path

READ, NEXT, WRITE, INDIRECT = 0, 1, 2, 4
FORWARD, COMPLETE, ANSWER = b"\x06", b"\x0c", b"\x08\xff\x7f"
EXACT, PAGE, COPY = 0, 1, 2
DYNAMIC, NEGOTIATED, THRESHOLD = 4, 8, 16


def page(n: int) -> bytes:
    """Whole data page `n` as an address."""
    return bytes([5 | n << 3, 0, 0])


def data(offset: int) -> bytes:
    """A place in the data area."""
    return bytes([6]) + offset.to_bytes(2, "little")


def table() -> bytes:
    """The first indirect table."""
    return bytes([4, 0, 0])


def desc(i: int, address: bytes, length: bytes, flags: int, following: int = 0) -> bytes:
    """Writes descriptor `i`."""
    return bytes([i << 4]) + address + length + bytes([flags, following])


def entry(i: int, address: bytes, length: bytes, flags: int, following: int = 0) -> bytes:
    """Writes entry `i` of the first indirect table."""
    return bytes([2, i << 1]) + address + length + bytes([flags, following])


def pages(n: int) -> bytes:
    """A length of whole pages."""
    return bytes([2 | n << 2])


def exactly(n: int) -> bytes:
    """A length up to 32767."""
    return bytes([3]) + n.to_bytes(2, "little")


def offer(head: int) -> bytes:
    """Makes a chain available."""
    return bytes([3 | head << 4])


BLK = (
    desc(0, data(100), exactly(16), NEXT, 1)
    + desc(1, page(2), pages(2), NEXT | WRITE, 2)
    + desc(2, data(116), exactly(1), WRITE)
)
IN_TABLE = (
    entry(0, data(100), exactly(16), NEXT, 1)
    + entry(1, page(2), pages(2), NEXT | WRITE, 2)
    + entry(2, data(116), exactly(1), WRITE)
    + desc(3, table(), bytes([1 | 2 << 2]), INDIRECT)
)
UNALIGNED = desc(4, data(4000), exactly(9000), WRITE)
TRIP = FORWARD + ANSWER + COMPLETE

SEEDS = {
    "blk": bytes([EXACT | NEGOTIATED]) + BLK + (offer(0) + TRIP) * 3,
    "blk-page": bytes([PAGE | NEGOTIATED]) + BLK + (offer(0) + TRIP) * 2,
    "blk-copy": bytes([COPY | NEGOTIATED]) + BLK + (offer(0) + TRIP) * 2,
    "blk-dynamic": bytes([EXACT | DYNAMIC | NEGOTIATED]) + BLK + (offer(0) + TRIP) * 3,
    "indirect": bytes([EXACT | NEGOTIATED]) + IN_TABLE + (offer(3) + TRIP) * 2,
    "indirect-refused": bytes([EXACT]) + IN_TABLE + offer(3) + TRIP,
    "unaligned": bytes([EXACT | THRESHOLD]) + UNALIGNED + offer(4) + TRIP,
    "two-in-flight": bytes([EXACT]) + BLK + UNALIGNED + offer(0) + offer(4) + FORWARD + ANSWER * 2 + COMPLETE,
    "twice-used": bytes([EXACT]) + UNALIGNED + offer(4) + FORWARD + (b"\x4a" + bytes(4)) * 2 + COMPLETE,
    "kept-page": bytes([EXACT]) + BLK + offer(0) + FORWARD + b"\x0e\x08" + ANSWER + COMPLETE,
    "tampered": bytes([EXACT]) + BLK + offer(0) + FORWARD + b"\x1f\x02\x01\x09\x03" + ANSWER + COMPLETE,
    "reset": bytes([EXACT]) + BLK + offer(0) + TRIP + b"\x0f" + offer(0) + TRIP,
    "index-jump": bytes([EXACT]) + BLK + b"\x05\xff\xff" + FORWARD,
    "loop": bytes([EXACT]) + desc(0, data(0), exactly(8), NEXT, 0) + offer(0) + FORWARD,
}


def main(folder: Path) -> None:
    """Writes one file a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in SEEDS.items():
        (folder / name).write_bytes(program)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
