# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the seed corpus of fuzz_chain: `make_seeds.py FOLDER`. The input's format: fuzz_chain.c."""

from __future__ import annotations

import sys
from pathlib import Path

READ, NEXT, WRITE, INDIRECT = 0, 1, 2, 4
EXACT, PAGE, COPY = 0, 1, 2
DYNAMIC, NEGOTIATED, THRESHOLD, CLEAR, DRIVER_EVENTS, BACKEND_EVENTS = 4, 8, 16, 32, 64, 128
OTHER_WINDOW, OTHER_MEDIATOR, BALLOONS, GUARDED = 4, 8, 16, 32  # of the second byte
READ_ONLY, WRITABLE = 0, 1


def step(number: int, argument: int = 0) -> bytes:
    """A step's first byte; see fuzz_chain.c."""
    return bytes([number | argument << 5])


FORWARD, COMPLETE, STOP, CLOSE, CRASH, SWEEP = step(8), step(14), step(22), step(24), step(25), step(26)
ANSWER = step(10, 1) + b"\xff\x7f" + b"\x21"
FILL = step(7) + b"\x05"
DRIVER_SLEEPS, BACKEND_SLEEPS, ENGINE_SLEEPS = step(28, 0), step(28, 1), step(28, 2)
RESET, SMALLER = step(21), step(21, 1)


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
    return step(0, i) + address + length + bytes([flags, following])


def entry(i: int, address: bytes, length: bytes, flags: int, following: int = 0) -> bytes:
    """Writes entry `i` of the first indirect table."""
    return step(2) + bytes([i << 1]) + address + length + bytes([flags, following])


def pages(n: int) -> bytes:
    """A length of whole pages."""
    return bytes([2 | n << 2])


def exactly(n: int) -> bytes:
    """A length up to 32767."""
    return bytes([3]) + n.to_bytes(2, "little")


def offer(head: int) -> bytes:
    """Makes a chain available."""
    return step(3, head)


def lane(number: int) -> bytes:
    """What follows is for this queue: 0 and 1 are the first device's, 2 is the second's."""
    return step(16, number)


def hold(which: int, way: int) -> bytes:
    """The backend maps the `which`-th page that is granted, and keeps it."""
    return step(17, way) + bytes([which])


def again(which: int, way: int) -> bytes:
    """The backend maps once more what it keeps."""
    return step(18, which << 1 | way)


def let_go(which: int) -> bytes:
    """The backend ends one mapping."""
    return step(19, which)


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
READABLE = desc(5, page(0), pages(2), READ)
RUN = desc(6, page(0), pages(7), WRITE)
TRIP = FORWARD + ANSWER + COMPLETE
GO = offer(0) + FORWARD
ALL = NEGOTIATED | CLEAR | DRIVER_EVENTS | BACKEND_EVENTS


def program(first: int, *steps: bytes, second: int = 0) -> bytes:
    """A whole input."""
    return bytes([first, second]) + FILL + b"".join(steps)


def kept(*after: bytes) -> bytes:
    """A run of seven pages of which the backend keeps three, one of them to read; then something happens."""
    return RUN + offer(6) + FORWARD + hold(1, WRITABLE) + hold(3, READ_ONLY) + hold(6, WRITABLE) + b"".join(after)


LET_GO = let_go(0) + let_go(1) + let_go(2)
SEEDS = {
    "blk": program(EXACT | ALL, BLK, (offer(0) + TRIP) * 3),
    "blk-page": program(PAGE | NEGOTIATED, BLK, (offer(0) + TRIP) * 2),
    "blk-copy": program(COPY | ALL, BLK, (offer(0) + TRIP) * 2),
    "blk-dynamic": program(EXACT | DYNAMIC | ALL, BLK, (offer(0) + TRIP) * 3),
    "blk-balloons": program(EXACT | ALL, BLK, (offer(0) + TRIP) * 3, second=BALLOONS),
    "indirect": program(EXACT | ALL, IN_TABLE, (offer(3) + TRIP) * 2),
    "indirect-refused": program(EXACT, IN_TABLE, offer(3), TRIP),
    "unaligned": program(EXACT | THRESHOLD | CLEAR, UNALIGNED, offer(4), TRIP),
    "almost-a-page": program(EXACT | CLEAR, desc(0, page(1), exactly(4095), WRITE), offer(0), TRIP),
    "readable": program(EXACT | CLEAR, READABLE, offer(5), TRIP),
    "less-than-claimed": program(
        EXACT | CLEAR, UNALIGNED, offer(4), FORWARD, step(10) + b"\x00\x20\x10\x00\x07", COMPLETE
    ),
    "two-in-flight": program(EXACT, BLK, UNALIGNED, offer(0), offer(4), FORWARD, ANSWER * 2, COMPLETE),
    "twice-used": program(EXACT, UNALIGNED, offer(4), FORWARD, (step(12, 4) + bytes(4)) * 2, COMPLETE),
    "used-too-long": program(EXACT, UNALIGNED, offer(4), FORWARD, step(12, 4) + bytes([255] * 4), COMPLETE),
    "tampered": program(EXACT, BLK, GO, step(30) + b"\x02\x01\x09\x03", ANSWER, COMPLETE),
    "reset": program(EXACT, BLK, offer(0), TRIP, RESET, offer(0), TRIP, SMALLER, offer(0), TRIP),
    "index-jump": program(EXACT, BLK, step(6) + b"\xff\xff", FORWARD),
    "loop": program(EXACT, desc(0, data(0), exactly(8), NEXT, 0), offer(0), FORWARD),
    # what the backend keeps
    "kept-answered": program(EXACT | CLEAR, kept(ANSWER, COMPLETE, STOP, STOP, LET_GO, STOP, CLOSE, SWEEP)),
    "kept-stopped": program(EXACT | DYNAMIC | CLEAR, kept(STOP, let_go(1), STOP, let_go(0), let_go(2), STOP)),
    "kept-closed": program(
        EXACT | CLEAR, kept(CLOSE, SWEEP, again(0, WRITABLE), again(1, READ_ONLY), SWEEP, LET_GO, SWEEP)
    ),
    "kept-crashed": program(EXACT | CLEAR, kept(CRASH, SWEEP, LET_GO, SWEEP, offer(6), TRIP)),
    "kept-dynamic-crashed": program(EXACT | DYNAMIC | CLEAR, kept(CRASH, SWEEP, LET_GO, SWEEP)),
    "raised": program(
        EXACT | CLEAR, RUN, offer(6), FORWARD, hold(2, READ_ONLY), again(0, WRITABLE), ANSWER, COMPLETE, STOP
    ),
    "not-raised": program(EXACT | CLEAR, kept(STOP, again(1, WRITABLE), again(1, READ_ONLY), let_go(1), STOP)),
    "crashed": program(EXACT | ALL, BLK, GO, CRASH, SWEEP, GO, ANSWER, COMPLETE),
    # several of everything
    "two-queues": program(EXACT | ALL, BLK, GO, lane(1), BLK, GO, ANSWER, COMPLETE, lane(0), ANSWER, COMPLETE),
    "same-pages": program(EXACT | ALL, BLK, GO, lane(2), BLK, GO, ANSWER, COMPLETE, lane(0), ANSWER, COMPLETE),
    "same-pages-dynamic": program(EXACT | DYNAMIC | ALL, BLK, GO, lane(2), BLK, GO, STOP, lane(0), ANSWER, COMPLETE),
    "two-windows": program(EXACT | ALL, BLK, GO, lane(2), BLK, GO, ANSWER, COMPLETE, second=OTHER_WINDOW),
    "two-mediators": program(EXACT | ALL, kept(lane(2), BLK, GO, CRASH, SWEEP, lane(0), STOP), second=OTHER_MEDIATOR),
    "around-the-window": program(EXACT | DYNAMIC | CLEAR, RUN, (offer(6) + TRIP) * 12),
    "guarded": program(EXACT | DYNAMIC | ALL, kept(LET_GO, ANSWER, COMPLETE), second=GUARDED),
    "cleared-by-a-refused-chain": program(
        EXACT | DYNAMIC | CLEAR,
        RUN + offer(6) + FORWARD + step(10, 1) + b"\x00\x60\x21" + lane(2),
        desc(1, page(2), pages(2), NEXT | WRITE, 2),
        desc(2, b"\x02\x0b\x00", exactly(1), WRITE) + offer(1) + FORWARD + lane(0) + COMPLETE,
    ),
    "small-window": program(
        EXACT | DYNAMIC | CLEAR, RUN, (offer(6) + lane(1) + RUN + offer(6)), FORWARD, lane(0), FORWARD
    ),
    # wishes to be woken
    "sleepers": program(
        EXACT | ALL, BLK, ENGINE_SLEEPS, BACKEND_SLEEPS, DRIVER_SLEEPS, GO, ENGINE_SLEEPS, ANSWER, COMPLETE
    ),
    "sleepers-flags": program(
        EXACT | NEGOTIATED, BLK, ENGINE_SLEEPS, BACKEND_SLEEPS, DRIVER_SLEEPS, GO, ENGINE_SLEEPS, ANSWER, COMPLETE
    ),
    "scribbled": program(EXACT | CLEAR, step(20) + b"\x5a", UNALIGNED, offer(4), TRIP),
}


def main(folder: Path) -> None:
    """Writes one file for each seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in SEEDS.items():
        (folder / name).write_bytes(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
