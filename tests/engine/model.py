# SPDX-License-Identifier: GPL-2.0-or-later
"""A plain model of the data plane, written from the virtio specification's text and the description of placement.

It shares nothing with the C: it reads the same guest memory, byte by byte, and says what must happen. Where one
descriptor breaks several rules the specification does not say which one is reported, so a refusal is a set of codes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

PAGE = 4096
NEXT, WRITE, INDIRECT = 1, 2, 4
CHAIN_PAGES_MAX = 256  # with 512 bounce pages or more: what can always be copied


class Refused(Exception):
    """The chain breaks a rule. `codes`: the names, without SVQ_E_, under which it may be reported."""

    def __init__(self, *codes: str) -> None:
        super().__init__(", ".join(codes))
        self.codes = frozenset(codes)


@dataclass(frozen=True)
class Segment:
    """One buffer of a chain: guest physical bytes [gpa, gpa + length)."""

    gpa: int
    length: int
    writable: bool

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.gpa + self.length

    @property
    def pages(self) -> range:
        """The frames that it touches."""
        return range(self.gpa // PAGE, (self.end - 1) // PAGE + 1)


@dataclass(frozen=True)
class Piece:
    """Consecutive bytes of one segment that all go the same way."""

    gpa: int
    length: int
    writable: bool
    granted: bool


@dataclass(frozen=True)
class Policy:
    """How a device's bytes travel: `placement` is exact, page or copy; `copy_threshold` in bytes."""

    placement: str = "exact"
    copy_threshold: int = 0
    indirect: bool = True


@dataclass(frozen=True)
class Ring:
    """A split ring in guest memory: size and guest physical addresses."""

    size: int
    desc: int
    avail: int
    used: int


@dataclass
class Guest:
    """Guest memory: `memory` is [0, len) of it, all RAM; frames beyond it up to `frames` are no RAM."""

    memory: memoryview
    frames: int
    ring_frames: frozenset[int]
    granted: set[int] = field(default_factory=set)  # frames at the backend now

    def is_ram(self, gpa: int, length: int) -> bool:
        """Whether each byte is memory."""
        return gpa + length <= len(self.memory)

    def in_range(self, gpa: int, length: int) -> bool:
        """Whether the bytes lie below the end of the guest's frame numbers, without a wrap at 2^64."""
        return gpa + length <= self.frames * PAGE


@dataclass(frozen=True)
class Descriptor:
    """The four fields of 2.7.5."""

    addr: int
    length: int
    flags: int
    next: int

    @classmethod
    def read(cls, memory: memoryview, gpa: int) -> Descriptor:
        """The 16 bytes at `gpa`, little-endian."""
        return cls(*struct.unpack_from("<QIHH", memory, gpa))


class ChainReader:
    """Follows one chain by the rules of 2.7.4 and 2.7.5."""

    def __init__(self, guest: Guest, ring: Ring, policy: Policy) -> None:
        self.guest = guest
        self.ring = ring
        self.policy = policy
        self.segments: list[Segment] = []

    def read(self, head: int) -> list[Segment]:
        """The chain's segments in order. Raises Refused."""
        self._walk(self.ring.desc, self.ring.size, head, within_indirect=False)
        return self.segments

    def _walk(self, table: int, entries: int, first: int, *, within_indirect: bool) -> None:
        visited: set[int] = set()
        i = first
        while True:
            desc = Descriptor.read(self.guest.memory, table + 16 * i)
            if desc.flags & INDIRECT and not within_indirect:
                self._enter_table(desc)
                return
            wrong = self._wrongs(desc, within_indirect, i in visited)
            if wrong:
                raise Refused(*wrong)
            visited.add(i)
            self.segments.append(Segment(desc.addr, desc.length, bool(desc.flags & WRITE)))
            if not desc.flags & NEXT:
                return
            if desc.next >= entries:
                raise Refused("NEXT_RANGE")
            i = desc.next

    def _wrongs(self, desc: Descriptor, within_indirect: bool, again: bool) -> list[str]:
        """Every rule that this buffer breaks, coming after the segments so far."""
        wrong = []
        writable = bool(desc.flags & WRITE)
        if desc.flags & INDIRECT and within_indirect:
            wrong.append("INDIRECT_NESTED")  # 2.7.5.3.1
        if again or len(self.segments) >= self.ring.size:
            wrong.append("CHAIN_LOOP")  # 2.7.5.2, 2.7.5.3.1
        if not writable and any(segment.writable for segment in self.segments):
            wrong.append("WRITABLE_BEFORE_READABLE")  # 2.7.4.2
        if again and len({segment.writable for segment in self.segments}) == 2:
            wrong.append("WRITABLE_BEFORE_READABLE")  # seen on the second round of the loop
        if desc.length == 0:
            wrong.append("ZERO_LENGTH")
        if not self.guest.in_range(desc.addr, desc.length):
            wrong.append("ADDRESS_WRAP")
        touched = [segment.pages for segment in self.segments] + [Segment(desc.addr, desc.length, writable).pages]
        if sum(len(pages) for pages in touched) > CHAIN_PAGES_MAX:
            wrong.append("CHAIN_LIMIT")
        return wrong

    def _enter_table(self, desc: Descriptor) -> None:
        wrong = []
        if not self.policy.indirect:
            wrong.append("INDIRECT_NOT_NEGOTIATED")  # 2.7.5.3.1
        if desc.flags & NEXT:
            wrong.append("INDIRECT_WITH_NEXT")  # 2.7.5.3.1
        if desc.length == 0 or desc.length % 16:
            wrong.append("INDIRECT_LENGTH")  # 2.7.5.3.2
        if desc.length // 16 > self.ring.size:
            wrong.append("INDIRECT_TOO_LONG")  # 2.7.5.3.1
        if not self.guest.in_range(desc.addr, desc.length) or not self.guest.is_ram(desc.addr, desc.length):
            wrong.append("INDIRECT_NOT_RAM")
        if wrong:
            raise Refused(*wrong)
        self._walk(desc.addr, desc.length // 16, 0, within_indirect=True)


def place(guest: Guest, policy: Policy, segments: list[Segment]) -> list[Piece]:
    """Which bytes of a chain are granted and which are copied; marks the granted frames in `guest`.

    Exact: the whole pages of a segment are granted if they are at least `copy_threshold` bytes, its ends are copied.
    Page: all that a segment touches is granted, unless the chain uses one of its pages the other way round too. Copy:
    nothing is granted. Pages with a ring, and pages that are granted already, are copied. Raises Refused.
    """
    if not all(guest.is_ram(segment.gpa, segment.length) for segment in segments):
        raise Refused("NOT_RAM")
    pieces: list[Piece] = []
    for segment in segments:
        wanted = _wanted_pages(policy, segments, segment)
        pieces += _merge([_piece_of_page(guest, segment, frame, frame in wanted) for frame in segment.pages])
    return pieces


def _wanted_pages(policy: Policy, segments: list[Segment], segment: Segment) -> range:
    if policy.placement == "exact":
        whole = range(-(-segment.gpa // PAGE), segment.end // PAGE)
        return whole if len(whole) * PAGE >= policy.copy_threshold else range(0)
    if policy.placement == "page":
        others = [other for other in segments if other.writable != segment.writable]
        both_ways = any(frame in other.pages for other in others for frame in segment.pages)
        return range(0) if both_ways else segment.pages
    return range(0)


def _piece_of_page(guest: Guest, segment: Segment, frame: int, wanted: bool) -> Piece:
    start, end = max(segment.gpa, frame * PAGE), min(segment.end, (frame + 1) * PAGE)
    granted = wanted and frame not in guest.ring_frames and frame not in guest.granted
    if granted:
        guest.granted.add(frame)
    return Piece(start, end - start, segment.writable, granted)


def _merge(pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        if merged and merged[-1].granted == piece.granted:
            merged[-1] = Piece(merged[-1].gpa, merged[-1].length + piece.length, piece.writable, piece.granted)
        else:
            merged.append(piece)
    return merged


@dataclass(frozen=True)
class Batch:
    """What a device must get to see of the chains made available since avail index `seen`."""

    heads: list[int]
    chains: list[list[Piece]]


def forward(guest: Guest, ring: Ring, policy: Policy, seen: int) -> Batch:
    """All chains from avail index `seen` on, none of which is at the device yet. Raises Refused: none gets there."""
    (idx,) = struct.unpack_from("<H", guest.memory, ring.avail + 2)
    ready = (idx - seen) % 0x10000
    if ready > ring.size:
        raise Refused("AVAIL_IDX_JUMP", "IN_FLIGHT_LIMIT")  # 2.7.13.3.1
    heads: list[int] = []
    chains: list[list[Piece]] = []
    for k in range(ready):
        (head,) = struct.unpack_from("<H", guest.memory, ring.avail + 4 + 2 * ((seen + k) % ring.size))
        if head >= ring.size:
            raise Refused("HEAD_RANGE")  # 2.7.6
        if head in heads:
            raise Refused("HEAD_BUSY")  # 2.7.13
        reader = ChainReader(guest, ring, policy)
        chains.append(place(guest, policy, reader.read(head)))
        heads.append(head)
    return Batch(heads, chains)
