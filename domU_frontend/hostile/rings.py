# SPDX-License-Identifier: GPL-2.0-or-later
"""Split rings written word by word, well-formed or not, as a hostile driver or device would leave them.

Nothing here checks a *value*: an index, id, length or address may be any number that fits its field. Only a
place outside the given memory is refused, because that is a mistake of the test and not of the peer it plays.

Every field is little-endian (virtio 1.x, 2.7). A 16-bit word is one store and one load, so that a peer that runs
at the same time sees the old value or the new one; nothing wider is, for `struct` goes byte by byte (and zeroes
what it is about to fill). There are no memory barriers: tell a peer (kick it) only after the writing is done.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Buffer

T = TypeVar("T")

DESC_F_NEXT: Final = 1
DESC_F_WRITE: Final = 2
DESC_F_INDIRECT: Final = 4
AVAIL_F_NO_INTERRUPT: Final = 1
USED_F_NO_NOTIFY: Final = 1
DESC_BYTES: Final = 16
USED_ELEM_BYTES: Final = 8
PAGE_BYTES: Final = 4096
GRANT_ADDR_FLAG: Final = 1 << 63  # Linux drivers/xen/grant-dma-ops.c
WINDOW_ADDR_FLAG: Final = 1 << 62  # a grant of the window owner; clear: of the mediator

_DESC: Final = struct.Struct("<QIHH")
_USED_ELEM: Final = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Desc:
    """One descriptor (virtio 2.7.5): `addr` is guest physical, `length` in bytes."""

    addr: int
    length: int
    flags: int = 0
    next: int = 0

    def pack(self) -> bytes:
        """Its 16 bytes."""
        return _DESC.pack(self.addr, self.length, self.flags, self.next)


@dataclass(frozen=True, slots=True)
class UsedElem:
    """One entry of a used ring (virtio 2.7.8): `id` is a chain's head, `length` the bytes written."""

    id: int
    length: int


@dataclass(frozen=True, slots=True)
class ShadowDesc:
    """One shadow descriptor. `gref` and `offset` come from its address (`1 << 63 | W << 62 | gref << 12 | offset`)."""

    addr: int
    length: int
    flags: int
    next: int

    @property
    def is_grant(self) -> bool:
        """Whether the address carries the grant flag at all."""
        return bool(self.addr & GRANT_ADDR_FLAG)

    @property
    def in_window(self) -> bool:
        """Whether the grant is one of the frontend's window; else it is the mediator's."""
        return bool(self.addr & WINDOW_ADDR_FLAG)

    @property
    def gref(self) -> int:
        """The first grant reference; a segment that goes on past the page goes on in the next reference."""
        return self.addr // PAGE_BYTES & 0xFFFFFFFF

    @property
    def offset(self) -> int:
        """Bytes into the page of `gref`, 0 to 4095."""
        return self.addr % PAGE_BYTES

    @property
    def grefs(self) -> range:
        """All grant references that the segment touches (none for an empty segment)."""
        return range(self.gref, self.gref + (self.offset + self.length + PAGE_BYTES - 1) // PAGE_BYTES)

    @property
    def has_next(self) -> bool:
        """VIRTQ_DESC_F_NEXT."""
        return bool(self.flags & DESC_F_NEXT)

    @property
    def device_writes(self) -> bool:
        """VIRTQ_DESC_F_WRITE."""
        return bool(self.flags & DESC_F_WRITE)

    @property
    def is_indirect(self) -> bool:
        """VIRTQ_DESC_F_INDIRECT."""
        return bool(self.flags & DESC_F_INDIRECT)


@dataclass(frozen=True, slots=True)
class RingLayout:
    """Where the three parts of one ring are: byte offsets into the memory that a `RingWriter` writes."""

    size: int
    desc: int
    avail: int
    used: int

    @classmethod
    def at(cls, offset: int, size: int, align: int = PAGE_BYTES) -> RingLayout:
        """A ring of `size` descriptors from `offset` on, each part at the next multiple of `align` bytes."""
        desc = _align_up(offset, align)
        avail = _align_up(desc + DESC_BYTES * size, align)
        used = _align_up(avail + 6 + 2 * size, align)
        return cls(size, desc, avail, used)

    @property
    def end(self) -> int:
        """The first byte after the used ring."""
        return self.used + 6 + USED_ELEM_BYTES * self.size


class RingWriter:
    """The driver's side of one split ring in `memory` (anything writable with the buffer protocol).

    Args:
        memory: guest memory, or a part of it.
        layout: ring size and the byte offsets of its parts in `memory`.
        base_gpa: guest physical address of the first byte of `memory`.
    """

    def __init__(self, memory: Buffer, layout: RingLayout, base_gpa: int = 0) -> None:
        self.memory = memoryview(memory).cast("B")
        self.layout = layout
        self.base_gpa = base_gpa
        self._words = _words(self.memory)
        if self.memory.readonly:
            raise ValueError("the memory of a ring must be writable")
        if layout.avail % 2 or layout.used % 2:
            raise ValueError("available and used ring must be aligned to their words")

    @property
    def size(self) -> int:
        """Descriptors in the ring."""
        return self.layout.size

    @property
    def desc_gpa(self) -> int:
        """Guest physical address of the descriptor table."""
        return self.base_gpa + self.layout.desc

    @property
    def avail_gpa(self) -> int:
        """Guest physical address of the available ring."""
        return self.base_gpa + self.layout.avail

    @property
    def used_gpa(self) -> int:
        """Guest physical address of the used ring."""
        return self.base_gpa + self.layout.used

    def clear(self) -> None:
        """Zeroes the three parts of the ring, as a driver does before it hands them over."""
        lay = self.layout
        ends = (DESC_BYTES * lay.size, 6 + 2 * lay.size, 6 + USED_ELEM_BYTES * lay.size)
        for start, length in zip((lay.desc, lay.avail, lay.used), ends, strict=True):
            self.memory[start : start + length] = bytes(length)

    # --- descriptors ----------------------------------------------------------------------------------------
    def set_desc(self, i: int, addr: int, length: int, flags: int = 0, next: int = 0) -> None:
        """Writes descriptor `i` of the ring's own table."""
        _place(i, self.size)
        self._pack(_DESC, self.layout.desc + DESC_BYTES * i, addr, length, flags, next)

    def desc(self, i: int) -> Desc:
        """Reads descriptor `i` back."""
        _place(i, self.size)
        return Desc(*_DESC.unpack_from(self.memory, self.layout.desc + DESC_BYTES * i))

    def set_chain(self, first: int, segments: Iterable[tuple[int, int, int]]) -> int:
        """Writes `segments` (address, length, flags) from descriptor `first` on, linked by NEXT.

        Returns the head, so that `ring.offer([ring.set_chain(...)])` reads well.
        """
        parts = list(segments)
        for k, (addr, length, flags) in enumerate(parts):
            more = k < len(parts) - 1
            self.set_desc(first + k, addr, length, flags | DESC_F_NEXT * more, (first + k + 1) * more)
        return first

    def set_table(self, offset: int, descs: Sequence[Desc]) -> int:
        """Writes an indirect table at `offset` bytes into the memory. Returns its guest physical address."""
        for k, one in enumerate(descs):
            self._pack(_DESC, offset + DESC_BYTES * k, one.addr, one.length, one.flags, one.next)
        return self.base_gpa + offset

    # --- available ring -------------------------------------------------------------------------------------
    def set_avail(self, idx: int, heads: Sequence[int] = ()) -> None:
        """Puts `heads` into the slots just before `idx`, then sets avail.idx to `idx`.

        After `set_avail(idx, [a, b])` a device that has seen everything up to `idx - 2` finds chains a and b.
        The heads need not exist or differ.
        """
        for k, head in enumerate(heads):
            slot = (idx - len(heads) + k) % 0x10000 % self.size
            self._set_u16(self.layout.avail + 4 + 2 * slot, head)
        self._set_u16(self.layout.avail + 2, idx)

    def offer(self, heads: Sequence[int]) -> None:
        """Makes `heads` available after those that already are."""
        self.set_avail((self.avail_idx + len(heads)) % 0x10000, heads)

    @property
    def avail_idx(self) -> int:
        """avail.idx as it is in memory."""
        return self._u16(self.layout.avail + 2)

    def set_avail_flags(self, flags: int) -> None:
        """Writes avail.flags."""
        self._set_u16(self.layout.avail, flags)

    def set_used_event(self, idx: int) -> None:
        """Writes used_event, the word after the available ring (virtio 2.7.7)."""
        self._set_u16(self.layout.avail + 4 + 2 * self.size, idx)

    # --- used ring ------------------------------------------------------------------------------------------
    @property
    def used_idx(self) -> int:
        """used.idx as it is in memory."""
        return self._u16(self.layout.used + 2)

    @property
    def used_flags(self) -> int:
        """used.flags as it is in memory."""
        return self._u16(self.layout.used)

    @property
    def avail_event(self) -> int:
        """avail_event, the word after the used ring (virtio 2.7.10)."""
        return self._u16(self.layout.used + 4 + USED_ELEM_BYTES * self.size)

    def used_entry(self, idx: int) -> UsedElem:
        """The entry at free-running index `idx` (its slot is `idx` modulo the ring size)."""
        at = self.layout.used + 4 + USED_ELEM_BYTES * (idx % self.size)
        return UsedElem(*_USED_ELEM.unpack_from(self.memory, at))

    def used_entries(self, since: int = 0) -> list[UsedElem]:
        """The entries from free-running index `since` up to used.idx; at most one ring full of them."""
        return _window(self.used_entry, since, self.used_idx, self.size)

    # --- any other word -------------------------------------------------------------------------------------
    def poke(self, gpa: int, data: Buffer) -> None:
        """Writes bytes at a guest physical address."""
        raw = memoryview(data).cast("B")
        start = _place(gpa - self.base_gpa, len(self.memory) - len(raw) + 1)
        self.memory[start : start + len(raw)] = raw

    def peek(self, gpa: int, length: int) -> bytes:
        """Reads `length` bytes at a guest physical address."""
        start = _place(gpa - self.base_gpa, len(self.memory) - length + 1)
        return bytes(self.memory[start : start + length])

    def _pack(self, form: struct.Struct, offset: int, *values: int) -> None:
        form.pack_into(self.memory, _place(offset, len(self.memory) - form.size + 1), *values)

    def _set_u16(self, offset: int, value: int) -> None:
        self._words[_place(offset, len(self.memory) - 1) // 2] = value

    def _u16(self, offset: int) -> int:
        return self._words[offset // 2]


class HostileDevice:
    """The device's side of one shadow ring: reads what the mediator shared, writes any used ring it likes.

    Args:
        desc: the shadow descriptor table (read-only will do), pages of one grant after another.
        avail: the shadow available ring (read-only will do).
        used: the shadow used ring, writable.
        size: descriptors in the ring.
    """

    def __init__(self, desc: Buffer, avail: Buffer, used: Buffer, size: int) -> None:
        self._desc = memoryview(desc).cast("B")
        self._avail = memoryview(avail).cast("B")
        self._used = memoryview(used).cast("B")
        self._avail_words, self._used_words = _words(self._avail), _words(self._used)
        self._desc = self._desc[: DESC_BYTES * size]
        self.size = size
        if self._used.readonly:
            raise ValueError("the used ring must be writable")

    # --- what the mediator published ------------------------------------------------------------------------
    @property
    def avail_idx(self) -> int:
        """avail.idx of the shadow ring."""
        return self._avail_words[1]

    @property
    def avail_flags(self) -> int:
        """avail.flags of the shadow ring."""
        return self._avail_words[0]

    @property
    def used_event(self) -> int:
        """used_event: after which used index the mediator wants to be told."""
        return self._avail_words[2 + self.size]

    def avail_head(self, idx: int) -> int:
        """The head at free-running index `idx`."""
        return self._avail_words[2 + idx % self.size]

    def avail_heads(self, since: int = 0) -> list[int]:
        """The heads from free-running index `since` up to avail.idx; at most one ring full of them."""
        return _window(self.avail_head, since, self.avail_idx, self.size)

    def shadow_desc(self, i: int) -> ShadowDesc:
        """Shadow descriptor `i` of the ring's own table."""
        return self.table_desc(self._desc, _place(i, self.size))

    @staticmethod
    def table_desc(table: Buffer, i: int) -> ShadowDesc:
        """Descriptor `i` of any table, for example of a mapped shadow indirect table."""
        return ShadowDesc(*_DESC.unpack_from(memoryview(table).cast("B"), DESC_BYTES * i))

    def chain(self, head: int, table: Buffer | None = None, entries: int | None = None) -> list[ShadowDesc]:
        """The chain from `head` on, in the ring's table or in `table` of `entries` descriptors.

        An indirect descriptor is returned as it is: map the grefs that it names and call again with that.
        Ends after as many descriptors as the table has, so that a loop ends too.
        """
        source = self._desc if table is None else memoryview(table).cast("B")
        limit = len(source) // DESC_BYTES if entries is None else entries
        found: list[ShadowDesc] = []
        i = head
        while len(found) < limit:
            found.append(self.table_desc(source, _place(i, limit)))
            if not found[-1].has_next:
                break
            i = found[-1].next
        return found

    # --- what the device answers ----------------------------------------------------------------------------
    @property
    def used_idx(self) -> int:
        """used.idx as it is in memory (the mediator must not write it)."""
        return self._used_words[1]

    def set_used_entry(self, idx: int, id: int, length: int) -> None:
        """Writes the entry (two 32-bit words) at free-running index `idx` and leaves used.idx alone."""
        _USED_ELEM.pack_into(self._used, 4 + USED_ELEM_BYTES * (idx % self.size), id, length)

    def set_used(self, idx: int, entries: Sequence[tuple[int, int]] = ()) -> None:
        """Puts `entries` (id, length) into the slots just before `idx`, then sets used.idx to `idx`."""
        for k, (head, length) in enumerate(entries):
            self.set_used_entry((idx - len(entries) + k) % 0x10000, head, length)
        self._used_words[1] = idx

    def complete(self, head: int, length: int) -> None:
        """Returns one chain after those already returned; nothing stops a second return of the same one."""
        self.set_used((self.used_idx + 1) % 0x10000, [(head, length)])

    def set_used_flags(self, flags: int) -> None:
        """Writes used.flags."""
        self._used_words[0] = flags

    def set_avail_event(self, idx: int) -> None:
        """Writes avail_event, the word after the used ring."""
        self._used_words[2 + USED_ELEM_BYTES // 2 * self.size] = idx


def _words(memory: memoryview) -> memoryview[int]:
    """
    The same memory in 16-bit words, as this machine stores them: little-endian, like every machine that we run on.
    """
    return memory[: len(memory) // 2 * 2].cast("H")


def _align_up(value: int, align: int) -> int:
    return -(-value // align) * align


def _place(i: int, limit: int) -> int:
    """Negative places would silently count from the end in Python: refuse them with all the others."""
    if not 0 <= i < limit:
        raise IndexError(f"place {i} is not within 0 to {limit - 1}")
    return i


def _window(read: Callable[[int], T], since: int, until: int, size: int) -> list[T]:
    """What `read` finds at 16-bit indices from `since` to before `until`, at most `size` of them."""
    count = min((until - since) % 0x10000, size)
    return [read((since + k) % 0x10000) for k in range(count)]
