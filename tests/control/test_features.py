# SPDX-License-Identifier: GPL-2.0-or-later
"""Feature bits: what is offered, what is refused, and the block device's limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xen_shadowvq import features as f
from xen_shadowvq.errors import PeerProtocolError

BACKEND = f.LEG2
BITS = st.integers(0, 2**64 - 1)


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


def test_offer_lets_through_exactly_the_known_block_features() -> None:
    """Of all 64 bits of a backend, the mediator offers its own five and the ten of the block device."""
    everything = 2**64 - 1
    assert f.offer(2, everything) == bits(28, 29, 32, 33, 40, 1, 2, 4, 5, 6, 9, 10, 12, 13, 14)


def test_offer_of_a_bare_backend() -> None:
    """A backend without device features still gets the mediator's own ring features offered."""
    assert f.offer(2, BACKEND) == bits(28, 29, 32, 33, 40)


@given(BITS)
def test_offer_never_adds_a_device_feature(backend: int) -> None:
    """No device bit is offered that the backend did not offer."""
    offered = f.offer(2, backend | BACKEND)
    assert offered & ~f.TRANSPORT_OFFERED & ~backend == 0


def test_offer_refuses_a_backend_without_the_basics() -> None:
    """A backend that cannot do what leg 2 rests on is refused, with the names of what it lacks."""
    with pytest.raises(PeerProtocolError, match="also INDIRECT_DESC, ACCESS_PLATFORM") as caught:
        f.offer(2, bits(29, 32), node="/b/features")
    assert caught.value.node == "/b/features"


def test_offer_refuses_an_unknown_device_type() -> None:
    """A device type whose requests nobody checks is not carried."""
    with pytest.raises(PeerProtocolError, match="device-type: got '1', expected a device type"):
        f.offer(1, BACKEND)


def test_accepted_must_be_offered_and_complete() -> None:
    """A driver may accept what was offered with the required bits, and nothing else."""
    offered = f.offer(2, BACKEND | bits(9))
    f.check_accepted(offered, offered)
    f.check_accepted(offered, f.REQUIRED)
    with pytest.raises(PeerProtocolError, match="none of BLK_MQ, RING_PACKED, bit 63, which were not offered"):
        f.check_accepted(offered, f.REQUIRED | bits(12, 34, 63))
    with pytest.raises(PeerProtocolError, match="also VERSION_1, ACCESS_PLATFORM, which are required"):
        f.check_accepted(offered, bits(9))
    with pytest.raises(PeerProtocolError, match="also ACCESS_PLATFORM, which are required"):
        f.check_accepted(offered, f.VERSION_1)


@given(BITS, BITS)
def test_accepted_is_judged_for_any_bits(offered: int, accepted: int) -> None:
    """Whatever a driver accepts is either a complete part of the offer or refused."""
    good = accepted & ~offered == 0 and accepted & f.REQUIRED == f.REQUIRED
    if good:
        f.check_accepted(offered, accepted)
    else:
        with pytest.raises(PeerProtocolError):
            f.check_accepted(offered, accepted)


def test_leg2_takes_device_bits_only_from_the_driver() -> None:
    """Leg 2 has its four fixed bits and the device bits that the driver accepted; RING_RESET ends on leg 1."""
    assert f.leg2(2, f.REQUIRED | f.RING_RESET | bits(9, 12)) == f.LEG2 | bits(9, 12)


def test_names() -> None:
    """Bits are named lowest first; those without a name by their number."""
    assert f.names(bits(40, 9, 32, 63)) == ["BLK_FLUSH", "VERSION_1", "RING_RESET", "bit 63"]
    assert f.names(bits(9), device_type=1) == ["bit 9"]
    assert f.names(0) == []


def config_space(size_max: int, seg_max: int, num_queues: int) -> bytes:
    """struct virtio_blk_config, field by field as virtio 5.2.4 lists them, with other fields non-zero."""
    fields = [
        (8, 1 << 21),  # capacity
        (4, size_max),
        (4, seg_max),
        (2, 11),  # geometry.cylinders
        (1, 12),  # geometry.heads
        (1, 13),  # geometry.sectors
        (4, 512),  # blk_size
        (1, 3),  # topology.physical_block_exp
        (1, 1),  # topology.alignment_offset
        (2, 8),  # topology.min_io_size
        (4, 64),  # topology.opt_io_size
        (1, 1),  # writeback
        (1, 0),  # unused0
        (2, num_queues),
        (4, 77),  # max_discard_sectors
    ]
    return b"".join(value.to_bytes(size, "little") for size, value in fields)


def test_clamp_lowers_the_three_limits_and_nothing_else() -> None:
    """Values above the mediator's limits are lowered in place; all other bytes stay."""
    clamped = f.clamp_blk_config(config_space(2**20, 2**32 - 1, 64), segments_max=126, size_max=65536, queues=4)
    assert clamped == config_space(65536, 126, 4)


def test_clamp_never_raises_a_value() -> None:
    """Values within the limits stay; a size_max of 0 means no limit, so the mediator's own takes its place."""
    small = config_space(0, 2, 1)
    assert f.clamp_blk_config(small, segments_max=126, size_max=65536, queues=4) == config_space(65536, 2, 1)
    within = config_space(4096, 2, 1)
    assert f.clamp_blk_config(within, segments_max=126, size_max=65536, queues=4) == within


@pytest.mark.parametrize("length", [8, 12, 16, 34, 36, 40])
def test_clamp_takes_a_short_space(length: int) -> None:
    """A space that ends between fields is clamped as far as it goes."""
    full = config_space(2**20, 200, 64)
    clamped = f.clamp_blk_config(full[:length], segments_max=126, size_max=4096, queues=4)
    assert clamped == config_space(4096, 126, 4)[:length]


@pytest.mark.parametrize("length", [0, 7, 9, 11, 13, 35])
def test_clamp_refuses_a_torn_space(length: int) -> None:
    """A space without its capacity, or that ends inside a field that is read, is the backend's mistake."""
    with pytest.raises(PeerProtocolError, match="config: got"):
        f.clamp_blk_config(config_space(1, 1, 1)[:length], segments_max=126, size_max=4096, queues=4)
