# SPDX-License-Identifier: GPL-2.0-or-later
"""A device that lies about what it used, and one that keeps what it must give back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from domU_frontend.hostile.rings import DESC_F_WRITE, GRANT_ADDR_FLAG, ShadowDesc
from tests.engine.engine_rig import FRONTEND, WINDOW_FRAME, EngineDevice, EngineRig
from tests.engine.model import PAGE, Policy
from xen_shadowvq.errors import HypervisorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 8
DATA = 64 * PAGE
LENGTH = PAGE + 100  # a whole page, and a tail that is copied
MARK = 0xA5


@pytest.fixture(scope="module")
def rig() -> Iterator[EngineRig]:
    """One machine for all tests; each has a device of its own."""
    with EngineRig() as opened:
        yield opened


@pytest.fixture
def dev(rig: EngineRig) -> Iterator[EngineDevice]:
    """A device with chains 0, 2 and 4 in flight: LENGTH writable bytes each, in pages of their own."""
    with EngineDevice(rig, SIZE, Policy()) as opened:
        for head in (0, 2, 4):
            gpa = DATA + head * 4 * PAGE
            rig.memory[gpa : gpa + LENGTH] = bytes([MARK]) * LENGTH
            opened.writer.set_desc(head, gpa, LENGTH, DESC_F_WRITE)
        opened.writer.offer([0, 2, 4])
        assert opened.forward() == 3
        yield opened


def lie_about_idx(dev: EngineDevice) -> None:
    """One good answer, but used.idx says four, of three chains."""
    dev.device.set_used(4, [(0, 0), (2, 0), (4, 0), (0, 0)])


def idx_goes_back(dev: EngineDevice) -> None:
    """used.idx decreases, which 2.7.8.2 forbids."""
    dev.device.set_used(0xFFFF)


def id_beyond_ring(dev: EngineDevice) -> None:
    """An id of no descriptor."""
    dev.device.complete(SIZE, 0)


def id_that_cuts_to_a_good_one(dev: EngineDevice) -> None:
    """An id whose low 16 bits are a chain in flight."""
    dev.device.complete(0x10002, 0)


def id_never_offered(dev: EngineDevice) -> None:
    """A descriptor that is no head."""
    dev.device.complete(1, 0)


def more_than_writable(dev: EngineDevice) -> None:
    """One byte more than the chain has."""
    dev.device.complete(2, LENGTH + 1)


def far_more_than_writable(dev: EngineDevice) -> None:
    """The largest length."""
    dev.device.complete(2, 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("lie", "name"),
    [
        (lie_about_idx, "USED_IDX_JUMP"),
        (idx_goes_back, "USED_IDX_JUMP"),
        (id_beyond_ring, "USED_ID_RANGE"),
        (id_that_cuts_to_a_good_one, "USED_ID_RANGE"),
        (id_never_offered, "USED_ID_NOT_LIVE"),
        (more_than_writable, "USED_LENGTH"),
        (far_more_than_writable, "USED_LENGTH"),
    ],
)
def test_lie_breaks_the_device_and_reaches_nobody(
    rig: EngineRig, dev: EngineDevice, lie: Callable[[EngineDevice], None], name: str
) -> None:
    """Each lie latches its own code; the driver sees no completion and no byte of its memory changes."""
    before = bytes(rig.memory)
    lie(dev)
    assert dev.complete() == rig.code(name)
    assert dev.fault().name == name
    assert dev.writer.used_idx == 0
    assert bytes(rig.memory) == before
    dev.device.set_used(1, [(0, 0)])
    assert dev.complete() == rig.code(name)
    assert dev.forward() == rig.code(name)
    assert dev.writer.used_idx == 0


def test_second_completion_of_one_chain(rig: EngineRig, dev: EngineDevice) -> None:
    """The first answer belongs to the driver, the same one again is refused with the chain's head in the report."""
    dev.device.complete(2, 5)
    dev.device.complete(2, 5)
    assert dev.complete() == rig.code("USED_ID_NOT_LIVE")
    assert [(entry.id, entry.length) for entry in dev.writer.used_entries()] == [(2, 5)]
    assert dev.fault().head == 2


def test_kept_mapping_is_never_returned_to_the_driver(rig: EngineRig, dev: EngineDevice) -> None:
    """A request whose page the device still maps is not completed, and its tail is not copied back."""
    granted, tail = dev.parts(2)
    kept = rig.map_part(granted, writable=True)
    dev.write(tail, b"\0" * tail.length)
    dev.device.complete(2, LENGTH)
    assert dev.complete() == rig.code("GRANT_BUSY")
    assert dev.writer.used_idx == 0
    assert rig.memory[DATA + 8 * PAGE + LENGTH - 1] == MARK
    assert dev.stats()["held"] == 1
    rig.unmap_grants(kept)


def test_device_may_not_write_what_it_may_only_read(rig: EngineRig) -> None:
    """Neither the granted page nor the copied tail of a readable segment can be mapped writable."""
    with EngineDevice(rig, SIZE, Policy()) as dev:
        dev.writer.set_desc(0, DATA, LENGTH)
        dev.writer.offer([0])
        assert dev.forward() == 1
        for part in dev.parts(0):
            with pytest.raises(HypervisorError):
                rig.map_part(part, writable=True)
        dev.device.complete(0, 0)
        assert dev.complete() == 1


def test_guessed_grefs_lead_nowhere(rig: EngineRig, dev: EngineDevice) -> None:
    """Of all grefs of the frontend, the device can map those of its requests' whole pages and no other."""
    wanted = {part.gref for head in (0, 2, 4) for part in dev.parts(head) if part.in_window}
    found = set()
    for gref in range(WINDOW_FRAME * 512, WINDOW_FRAME * 512 + 1024):
        try:
            mapped = rig.map_grants(FRONTEND, [gref], writable=False)
        except HypervisorError:
            continue
        found.add(gref)
        rig.unmap_grants(mapped)
    assert found == wanted
    assert len(found) == 3


def test_stale_shadow_chain_is_of_no_use(rig: EngineRig, dev: EngineDevice) -> None:
    """After the completion the grefs of a request lead nowhere, though its shadow descriptors can still be read."""
    granted, _ = dev.parts(4)
    dev.device.complete(4, LENGTH)
    assert dev.complete() == 1
    assert dev.parts(4)[0] == granted
    with pytest.raises(HypervisorError):
        rig.map_part(granted, writable=False)


def test_part_addresses_carry_the_grant_flag(dev: EngineDevice) -> None:
    """Every shadow address is `1 << 63 | gref << 12 | offset`, with bit 62 for whole pages, which the window has."""
    parts: list[ShadowDesc] = [part for head in (0, 2, 4) for part in dev.parts(head)]
    assert all(part.addr & GRANT_ADDR_FLAG for part in parts)
    assert [part.in_window for part in parts] == [True, False] * 3
    assert [part.length for part in parts] == [PAGE, 100] * 3
