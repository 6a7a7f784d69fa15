# SPDX-License-Identifier: GPL-2.0-or-later
"""The C engine against the model: the same guest memory, the same verdict, the same bytes on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from domU_frontend.hostile.rings import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Desc
from tests.engine import model
from tests.engine.engine_rig import FRAMES, RAM_FRAMES, RING_FRAME, TABLE_FRAME, EngineDevice, EngineRig
from tests.engine.model import PAGE, Guest, Policy, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA_FRAMES = (32, 500, 768)  # frame 512 begins another chunk of the mediator's view
FILL = bytes((i * 7 + i // PAGE) % 251 for i in range(RAM_FRAMES * PAGE))


@pytest.fixture(scope="module")
def rig() -> Iterator[EngineRig]:
    """One machine for all examples; each has a device of its own."""
    with EngineRig() as opened:
        yield opened


# --- what the driver does ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Request:
    """One well-formed chain: `in_ring` of its segments in the ring's table, the others in an indirect one."""

    segments: tuple[Segment, ...]
    in_ring: int
    table_offset: int
    used_share: float


@dataclass(frozen=True)
class Spoil:
    """One lie: `what` is replaced by `value`, in descriptor (or available entry) `at`, of indirect table `table`."""

    what: str
    table: int
    at: int
    value: int


@dataclass(frozen=True)
class Scene:
    """One example."""

    size: int
    policy: Policy
    requests: tuple[Request, ...]
    spoils: tuple[Spoil, ...]
    order: tuple[int, ...]


def gpas() -> st.SearchStrategy[int]:
    """Addresses of data: on, before and after page borders, over the chunk border, rarely in a ring's page."""
    frames = st.builds(lambda base, n: base + n, st.sampled_from(DATA_FRAMES), st.integers(0, 24))
    frames = st.one_of(frames, frames, frames, st.sampled_from((RING_FRAME, RING_FRAME - 1)))
    offsets = st.one_of(st.just(0), st.integers(0, PAGE - 1), st.sampled_from((1, 64, PAGE - 1, PAGE - 16)))
    return st.builds(lambda frame, offset: frame * PAGE + offset, frames, offsets)


def lengths() -> st.SearchStrategy[int]:
    """Lengths up to some pages, whole pages often, below and above what a small bounce slot holds."""
    return st.one_of(st.integers(1, 80), st.integers(1, 3 * PAGE), st.builds(lambda n: n * PAGE, st.integers(1, 5)))


def segments_of(readable: list[tuple[int, int]], writable: list[tuple[int, int]]) -> tuple[Segment, ...]:
    """Readable ones first, and none in the page of the used ring, which the engine writes itself."""
    both = [Segment(gpa, length, False) for gpa, length in readable]
    both += [Segment(gpa, length, True) for gpa, length in writable]
    return tuple(s for s in both if RING_FRAME + 2 not in s.pages) or (Segment(DATA_FRAMES[0] * PAGE, 1, False),)


def requests() -> st.SearchStrategy[Request]:
    """Chains of 1 to 8 segments."""
    some = st.lists(st.tuples(gpas(), lengths()), max_size=4)
    return st.builds(
        Request,
        st.builds(segments_of, some, some),
        st.integers(0, 8),
        st.integers(0, PAGE - 1),
        st.floats(0, 1),
    )


HOSTILE = {
    "addr": st.one_of(
        st.sampled_from((0, RAM_FRAMES * PAGE, RAM_FRAMES * PAGE - 8, FRAMES * PAGE, 2**64 - 8, 2**63, 2**32)), gpas()
    ),
    "length": st.sampled_from((0, 1, 15, 16, 17, 32, 4096, 16 * PAGE, 2**31, 2**32 - 1)),
    "flags": st.integers(0, 15),
    "next": st.one_of(st.integers(0, 16), st.sampled_from((255, 256, 0xFFFF))),
    "head": st.one_of(st.integers(0, 17), st.sampled_from((0x8000, 0xFFFF))),
    "idx": st.one_of(st.integers(0, 20), st.sampled_from((0x8000, 0xFFFF))),
}


def spoils() -> st.SearchStrategy[Spoil]:
    """One lie of any kind."""
    places = st.one_of(st.integers(0, 3), st.integers(0, 15))
    return st.sampled_from((*HOSTILE, "addr", "length", "flags", "next")).flatmap(
        lambda what: st.builds(Spoil, st.just(what), st.integers(0, 4), places, HOSTILE[what])
    )


def scenes() -> st.SearchStrategy[Scene]:
    """Mostly well-formed: half of the examples have no lie at all."""
    return st.builds(
        Scene,
        st.sampled_from((4, 8, 16)),
        st.builds(
            Policy,
            st.sampled_from(("exact", "exact", "page", "copy")),
            st.sampled_from((0, 0, 2 * PAGE)),
            st.sampled_from((True, True, True, False)),
        ),
        st.lists(requests(), min_size=1, max_size=4).map(tuple),
        st.one_of(st.just(()), st.lists(spoils(), min_size=1, max_size=3).map(tuple)),
        st.permutations(range(4)).map(tuple),
    )


def write_requests(dev: EngineDevice, scene: Scene) -> list[int]:
    """Puts the chains into the ring, as many as it has room for. Returns their heads."""
    heads, free = [], 0
    for n, request in enumerate(scene.requests):
        descs = [
            Desc(s.gpa, s.length, DESC_F_WRITE * s.writable | DESC_F_NEXT, 0) for s in request.segments[: scene.size]
        ]
        room = scene.size - free
        in_ring = min(request.in_ring, len(descs)) if scene.policy.indirect else len(descs)
        if in_ring < len(descs):
            in_ring = min(in_ring, room - 1)
        if room < 1 or in_ring > room:
            break
        head = free
        for k, desc in enumerate(descs[:in_ring]):
            more = k < len(descs) - 1
            dev.writer.set_desc(free, desc.addr, desc.length, desc.flags & ~(DESC_F_NEXT * (not more)), free + 1)
            free += 1
        if in_ring < len(descs):
            write_table(dev, free, n, request.table_offset, descs[in_ring:])
            free += 1
        heads.append(head)
    return heads


def write_table(dev: EngineDevice, at: int, n: int, offset: int, descs: list[Desc]) -> None:
    """An indirect table in a place of its own, referred to by descriptor `at`."""
    linked = [Desc(d.addr, d.length, d.flags, k + 1) for k, d in enumerate(descs)]
    linked[-1] = Desc(descs[-1].addr, descs[-1].length, descs[-1].flags & ~DESC_F_NEXT, 0)
    gpa = dev.writer.set_table((TABLE_FRAME + 2 * n) * PAGE + offset, linked)
    dev.writer.set_desc(at, gpa, 16 * len(linked), DESC_F_INDIRECT, 0)


def spoil(dev: EngineDevice, scene: Scene, lie: Spoil) -> None:
    """Tells one lie."""
    writer = dev.writer
    if lie.what == "idx":
        writer.set_avail(lie.value)
    elif lie.what == "head":
        idx = writer.avail_idx
        writer.set_avail(1, [lie.value])
        writer.set_avail(idx)
    else:
        table = lie.table - 1
        at = dev.ring.desc + 16 * (lie.at % scene.size)
        if 0 <= table < len(scene.requests):
            at = (TABLE_FRAME + 2 * table) * PAGE + scene.requests[table].table_offset + 16 * lie.at
        field, width = {"addr": (0, 8), "length": (8, 4), "flags": (12, 2), "next": (14, 2)}[lie.what]
        writer.poke(at + field, lie.value.to_bytes(width, "little"))


# --- the comparison ------------------------------------------------------------------------------------------
def check_refused(dev: EngineDevice, refused: model.Refused) -> None:
    """The device is broken under one of the names that the model knows, and the backend saw nothing."""
    rc = dev.forward()
    fault = dev.fault()
    event(f"refused: {fault.name}")
    assert fault.name in refused.codes
    assert rc == dev.rig.code(fault.name) == dev.forward() == dev.complete()
    assert dev.device.avail_idx == 0
    assert dev.writer.used_idx == 0


def check_forwarded(dev: EngineDevice, guest: Guest, batch: model.Batch) -> None:
    """The backend sees exactly the bytes of the chains, each granted or copied as the model says."""
    assert dev.forward() == len(batch.heads)
    assert dev.device.avail_heads() == batch.heads
    assert dev.window_in_use() == len(guest.granted)
    for head, expected in zip(batch.heads, batch.chains, strict=True):
        parts = dev.parts(head)
        assert dev.pieces(parts, expected) == expected
        seen = b"".join(dev.read(part) for part in parts if not part.device_writes)
        described = b"".join(bytes(guest.memory[p.gpa : p.gpa + p.length]) for p in expected if not p.writable)
        assert seen == described


def answer(dev: EngineDevice, scene: Scene, batch: model.Batch, expected: bytearray) -> None:
    """The device writes all it may and answers in its own order; `expected` becomes the guest's memory after that."""
    order = [k for k in scene.order if k < len(batch.heads)]
    writable = {k: sum(piece.length for piece in batch.chains[k] if piece.writable) for k in order}
    stream = {k: (bytes(range(k, 251)) * (writable[k] // 200 + 1))[: writable[k]] for k in order}
    for k in order:
        at = 0
        for part in dev.parts(batch.heads[k]):
            if part.device_writes:
                dev.write(part, stream[k][at : at + part.length])
                at += part.length
        _apply(batch.chains[k], stream[k], expected, granted=True, limit=len(stream[k]))
    lengths = {k: int(scene.requests[k].used_share * len(stream[k])) for k in order}
    for k in order:
        _apply(batch.chains[k], stream[k], expected, granted=False, limit=lengths[k])
        dev.device.complete(batch.heads[k], lengths[k])
    assert dev.complete() == len(order)
    assert [(e.id, e.length) for e in dev.writer.used_entries()] == [(batch.heads[k], lengths[k]) for k in order]


def _apply(chain: list[model.Piece], data: bytes, memory: bytearray, *, granted: bool, limit: int) -> None:
    at = 0
    for piece in chain:
        if not piece.writable:
            continue
        if piece.granted == granted:
            n = max(0, min(piece.length, limit - at))
            memory[piece.gpa : piece.gpa + n] = data[at : at + n]
        at += piece.length


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(scene=scenes())
def test_engine_agrees_with_the_model(rig: EngineRig, scene: Scene) -> None:
    """For any ring contents the engine refuses, grants, copies and returns exactly what the model says."""
    rig.memory[:] = FILL
    with EngineDevice(rig, scene.size, scene.policy) as dev:
        dev.writer.offer(write_requests(dev, scene))
        for lie in scene.spoils:
            spoil(dev, scene, lie)
        rings = frozenset((RING_FRAME, RING_FRAME + 1, RING_FRAME + 2))
        guest = Guest(rig.memory, FRAMES, rings)
        try:
            batch = model.forward(guest, dev.ring, scene.policy, 0)
        except model.Refused as refused:
            check_refused(dev, refused)
        else:
            event(f"forwarded: {scene.policy.placement}")
            pieces = [Segment(p.gpa, p.length, p.writable) for chain in batch.chains for p in chain]
            check_forwarded(dev, guest, batch)
            if all(RING_FRAME + 2 not in piece.pages for piece in pieces) and len(batch.heads) <= len(scene.requests):
                check_answered(dev, scene, batch)
    assert dev.left == 0


def check_answered(dev: EngineDevice, scene: Scene, batch: model.Batch) -> None:
    """After the answers the guest's whole memory is what it must be, the used ring's own page aside."""
    expected = bytearray(dev.rig.memory)
    answer(dev, scene, batch, expected)
    used = dev.ring.used
    assert bytes(dev.rig.memory[:used]) == bytes(expected[:used])
    assert bytes(dev.rig.memory[used + PAGE :]) == bytes(expected[used + PAGE :])
    assert dev.window_in_use() == 0
