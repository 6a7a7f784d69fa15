# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring writers that other tests rely on, tried on plain bytearrays."""

from __future__ import annotations

import mmap
import multiprocessing
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domU_frontend.hostile.rings import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    GRANT_ADDR_FLAG,
    Desc,
    HostileDevice,
    RingLayout,
    RingWriter,
    ShadowDesc,
    UsedElem,
)

SIZE = 8
BASE = 0x40000


def make_ring(size: int = SIZE) -> tuple[bytearray, RingWriter]:
    """A zeroed memory with one ring at its start."""
    layout = RingLayout.at(0, size)
    memory = bytearray(layout.end + 4096)
    return memory, RingWriter(memory, layout, BASE)


def make_device(size: int = SIZE) -> tuple[bytearray, bytearray, bytearray, HostileDevice]:
    """Descriptor table, available ring and used ring as three memories, and the device over them."""
    desc, avail, used = bytearray(16 * size), bytearray(6 + 2 * size), bytearray(6 + 8 * size)
    return desc, avail, used, HostileDevice(memoryview(desc).toreadonly(), bytes(avail), used, size)


def test_layout_keeps_the_parts_apart_and_aligned() -> None:
    """The parts follow one another at the wished alignment and none overlaps the next."""
    layout = RingLayout.at(100, 256, align=64)
    assert (layout.desc, layout.avail, layout.used) == (128, 128 + 4096, 4224 + 576)
    assert layout.end == layout.used + 6 + 8 * 256


def test_descriptor_bytes_are_those_of_the_specification() -> None:
    """A descriptor is address:64, length:32, flags:16, next:16, little-endian, at 16 times its index."""
    memory, ring = make_ring()
    ring.set_desc(3, 0x1122334455667788, 0xDEADBEEF, DESC_F_NEXT | DESC_F_WRITE, 0xFFFF)
    assert memory[48:64] == bytes.fromhex("8877665544332211 efbeadde 0300 ffff")
    assert ring.desc(3) == Desc(0x1122334455667788, 0xDEADBEEF, 3, 0xFFFF)
    assert ring.desc(3).pack() == memory[48:64]


def test_chain_links_all_but_the_last() -> None:
    """`set_chain` sets NEXT on every descriptor except the last and keeps the caller's other flags."""
    _, ring = make_ring()
    assert ring.set_chain(2, [(0x1000, 16, 0), (0x2000, 512, DESC_F_WRITE), (0x3000, 1, DESC_F_WRITE)]) == 2
    assert [ring.desc(i).flags for i in (2, 3, 4)] == [DESC_F_NEXT, DESC_F_NEXT | DESC_F_WRITE, DESC_F_WRITE]
    assert [ring.desc(i).next for i in (2, 3, 4)] == [3, 4, 0]


def test_indirect_table_lands_where_its_address_says() -> None:
    """`set_table` writes the entries at the offset and returns the guest physical address of the first."""
    _, ring = make_ring()
    gpa = ring.set_table(ring.layout.end, [Desc(1, 2, 3, 4), Desc(5, 6, 7, 8)])
    assert gpa == BASE + ring.layout.end
    assert ring.peek(gpa, 32) == struct.pack("<QIHHQIHH", 1, 2, 3, 4, 5, 6, 7, 8)


def test_avail_wraps_over_ring_and_index() -> None:
    """Heads land in the slots before idx, also across the end of the ring and across 65535."""
    memory, ring = make_ring()
    ring.set_avail(1, [7, 6, 5])
    at = ring.layout.avail
    assert struct.unpack_from("<HH8H", memory, at) == (0, 1, 5, 0, 0, 0, 0, 0, 7, 6)
    assert ring.avail_idx == 1
    ring.offer([60000, 2])
    assert ring.avail_idx == 3
    assert struct.unpack_from("<8H", memory, at + 4) == (5, 60000, 2, 0, 0, 0, 7, 6)


def test_avail_index_may_jump_and_events_lie_behind_the_rings() -> None:
    """Any index is written as it is; flags and used_event go to their own words."""
    memory, ring = make_ring()
    ring.set_avail(40000)
    ring.set_avail_flags(1)
    ring.set_used_event(0xABCD)
    at = ring.layout.avail
    assert struct.unpack_from("<HH", memory, at) == (1, 40000)
    assert struct.unpack_from("<H", memory, at + 4 + 2 * SIZE) == (0xABCD,)


def test_used_ring_is_read_back() -> None:
    """What a device wrote is read entry by entry, past the end of the ring, with flags and avail_event."""
    memory, ring = make_ring()
    at = ring.layout.used
    struct.pack_into("<HH", memory, at, 1, 9)
    struct.pack_into("<II", memory, at + 4 + 8 * 7, 3, 513)
    struct.pack_into("<II", memory, at + 4, 4, 1)
    struct.pack_into("<H", memory, at + 4 + 8 * SIZE, 77)
    assert (ring.used_flags, ring.used_idx, ring.avail_event) == (1, 9, 77)
    assert ring.used_entries(7) == [UsedElem(3, 513), UsedElem(4, 1)]
    assert len(ring.used_entries(1000)) == SIZE


def test_clear_zeroes_the_ring_and_nothing_else() -> None:
    """`clear` leaves the bytes between and after the parts alone."""
    memory, ring = make_ring()
    memory[:] = b"\xee" * len(memory)
    ring.clear()
    lay = ring.layout
    parts = [(lay.desc, 16 * SIZE), (lay.avail, 6 + 2 * SIZE), (lay.used, 6 + 8 * SIZE)]
    assert all(not any(memory[start : start + length]) for start, length in parts)
    assert memory.count(0) == sum(length for _, length in parts)


def test_places_outside_the_memory_are_refused() -> None:
    """A test that writes outside its own memory is told so, also by negative places."""
    memory, ring = make_ring()
    before = bytes(memory)
    with pytest.raises(IndexError):
        ring.set_desc(SIZE, 0, 0)
    with pytest.raises(IndexError):
        ring.set_desc(-1, 0, 0)
    with pytest.raises(IndexError):
        ring.set_table(len(memory) - 8, [Desc(0, 0)])
    with pytest.raises(IndexError):
        ring.poke(BASE - 1, b"x")
    with pytest.raises(IndexError):
        ring.peek(BASE + len(memory), 1)
    assert bytes(memory) == before
    with pytest.raises(ValueError, match="writable"):
        RingWriter(before, ring.layout)


def bits(width: int) -> st.SearchStrategy[int]:
    """Any unsigned number of that many bits."""
    return st.integers(0, 2**width - 1)


@given(bits(64), bits(32), bits(16), bits(16))
def test_any_descriptor_survives_the_round_trip(addr: int, length: int, flags: int, after: int) -> None:
    """Whatever fits the fields is written and read back unchanged."""
    _, ring = make_ring()
    ring.set_desc(0, addr, length, flags, after)
    assert ring.desc(0) == Desc(addr, length, flags, after)


def test_shadow_descriptor_address_is_taken_apart() -> None:
    """Grant flag, reference and offset are told apart, and a long segment names all its references."""
    one = ShadowDesc(GRANT_ADDR_FLAG | 16400 << 12 | 4000, 5000, DESC_F_WRITE | DESC_F_NEXT, 7)
    assert (one.is_grant, one.gref, one.offset) == (True, 16400, 4000)
    assert list(one.grefs) == [16400, 16401, 16402]
    assert (one.device_writes, one.has_next, one.is_indirect) == (True, True, False)
    assert not ShadowDesc(0x1000, 1, 0, 0).is_grant
    assert list(ShadowDesc(GRANT_ADDR_FLAG, 0, DESC_F_INDIRECT, 0).grefs) == []


def test_device_reads_what_a_driver_wrote() -> None:
    """The two helpers agree: heads and chains written by `RingWriter` are those that `HostileDevice` sees."""
    memory, ring = make_ring()
    lay = ring.layout
    view = memoryview(memory)
    device = HostileDevice(view[lay.desc :], view[lay.avail :], view[lay.used :], SIZE)
    ring.offer([ring.set_chain(1, [(GRANT_ADDR_FLAG | 5 << 12, 16, 0), (GRANT_ADDR_FLAG | 6 << 12, 1, 2)])])
    ring.set_used_event(9)
    ring.set_avail_flags(1)
    assert (device.avail_heads(), device.used_event, device.avail_flags) == ([1], 9, 1)
    assert [one.gref for one in device.chain(1)] == [5, 6]
    device.complete(1, 1)
    device.complete(1, 1)
    device.set_used_flags(1)
    device.set_avail_event(3)
    assert ring.used_entries() == [UsedElem(1, 1), UsedElem(1, 1)]
    assert (device.used_idx, ring.used_flags, ring.avail_event) == (2, 1, 3)


def test_device_lies_as_it_is_told() -> None:
    """Ids beyond the ring, lengths of 4 GiB and a jumping index are written without complaint."""
    _, _, used, device = make_device()
    device.set_used(0xFFFF, [(0xFFFFFFFF, 0xFFFFFFFF), (99, 0)])
    assert struct.unpack_from("<HH", used, 0) == (0, 0xFFFF)
    assert struct.unpack_from("<IIII", used, 4 + 8 * 5) == (0xFFFFFFFF, 0xFFFFFFFF, 99, 0)
    device.complete(1, 2)
    assert device.used_idx == 0


def test_chain_that_loops_ends() -> None:
    """Reading a chain that points to itself stops after as many descriptors as the table has."""
    desc, _, _, device = make_device()
    struct.pack_into("<QIHH", desc, 0, 0, 0, DESC_F_NEXT, 0)
    assert len(device.chain(0)) == SIZE
    table = struct.pack("<QIHHQIHH", GRANT_ADDR_FLAG, 16, DESC_F_NEXT, 1, GRANT_ADDR_FLAG | 1 << 12, 1, 2, 0)
    assert [one.gref for one in device.chain(0, table)] == [0, 1]
    assert [one.gref for one in device.chain(0, table, entries=1)] == [0]
    with pytest.raises(IndexError):
        device.shadow_desc(SIZE)


FLIPPED = (0x00FF, 0x0100)


def flip(path: Path) -> None:
    """Another process: writes one index and the other, then a last one."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        ring = RingWriter(memory, RingLayout.at(0, SIZE))
        for step in range(200_000):
            ring.set_avail(FLIPPED[step % 2])
        ring.set_avail(0xFFFF)
        del ring


def test_an_index_is_never_seen_half_written(tmp_path: Path) -> None:
    """A peer that looks all the time, as a polling one does, sees the old index or the new one and nothing between."""
    layout, path = RingLayout.at(0, SIZE), tmp_path / "ring"
    path.write_bytes(bytes(layout.end))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        ring = RingWriter(memory, layout)
        ring.set_avail(FLIPPED[0])
        child = multiprocessing.get_context("spawn").Process(target=flip, args=(path,))
        child.start()
        seen = set()
        while 0xFFFF not in seen and child.is_alive():
            seen |= {ring.avail_idx for _ in range(1000)}
        child.join()
        assert child.exitcode == 0
        assert seen <= {*FLIPPED, 0xFFFF}
        del ring
