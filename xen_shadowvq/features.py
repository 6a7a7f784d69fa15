# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtio feature bits: what the mediator offers, lets through, and insists on (virtio 6 and 5.2.3)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from xen_shadowvq.errors import PeerProtocolError

DEVICE_TYPE_BLK = 2

INDIRECT_DESC = 1 << 28
EVENT_IDX = 1 << 29
VERSION_1 = 1 << 32
ACCESS_PLATFORM = 1 << 33
RING_RESET = 1 << 40
BLK_SIZE_MAX = 1 << 1

TRANSPORT_OFFERED = VERSION_1 | ACCESS_PLATFORM | INDIRECT_DESC | EVENT_IDX | RING_RESET
"""What the mediator implements itself on leg 1, whatever the backend can do."""

REQUIRED = VERSION_1 | ACCESS_PLATFORM
"""Without these a driver would use another ring layout, or addresses that nobody asked the hypervisor for."""

LEG2 = VERSION_1 | ACCESS_PLATFORM | INDIRECT_DESC | EVENT_IDX
"""In force on leg 2, besides the device's own bits: addresses are grants, chains are indirect tables."""

_TRANSPORT_NAMES: Mapping[int, str] = {
    28: "INDIRECT_DESC",
    29: "EVENT_IDX",
    32: "VERSION_1",
    33: "ACCESS_PLATFORM",
    34: "RING_PACKED",
    35: "IN_ORDER",
    36: "ORDER_PLATFORM",
    37: "SR_IOV",
    38: "NOTIFICATION_DATA",
    39: "NOTIF_CONFIG_DATA",
    40: "RING_RESET",
    41: "ADMIN_VQ",
}

# virtio 5.2.3, with the two legacy bits of 5.2.3.1
_BLK_NAMES: Mapping[int, str] = {
    0: "BLK_BARRIER",
    1: "BLK_SIZE_MAX",
    2: "BLK_SEG_MAX",
    4: "BLK_GEOMETRY",
    5: "BLK_RO",
    6: "BLK_BLK_SIZE",
    7: "BLK_SCSI",
    9: "BLK_FLUSH",
    10: "BLK_TOPOLOGY",
    11: "BLK_CONFIG_WCE",
    12: "BLK_MQ",
    13: "BLK_DISCARD",
    14: "BLK_WRITE_ZEROES",
    15: "BLK_LIFETIME",
    16: "BLK_SECURE_ERASE",
    17: "BLK_ZONED",
}

# Not CONFIG_WCE: the driver would write to the configuration space, which only travels from the backend.
# Not LIFETIME, SECURE_ERASE, ZONED: requests whose parts nobody here has checked.
_BLK_LET_THROUGH = (
    "SIZE_MAX", "SEG_MAX", "GEOMETRY", "RO", "BLK_SIZE", "FLUSH", "TOPOLOGY", "MQ", "DISCARD", "WRITE_ZEROES"
)  # fmt: skip


def blk(*names: str) -> int:
    """The bits of a block device's features, by their names without VIRTIO_BLK_F_."""
    bits = {name: bit for bit, name in _BLK_NAMES.items()}
    return sum(1 << bits[f"BLK_{name}"] for name in names)


_DEVICE_NAMES: Mapping[int, Mapping[int, str]] = {DEVICE_TYPE_BLK: _BLK_NAMES}
_DEVICE_LET_THROUGH: Mapping[int, int] = {DEVICE_TYPE_BLK: blk(*_BLK_LET_THROUGH)}


def names(bits: int, device_type: int = DEVICE_TYPE_BLK) -> list[str]:
    """The names of the bits that are set, lowest first; `bit 57` for one without a name."""
    known = {**_DEVICE_NAMES.get(device_type, {}), **_TRANSPORT_NAMES}
    return [known.get(bit, f"bit {bit}") for bit in range(bits.bit_length()) if bits >> bit & 1]


def device_bits(device_type: int, node: str = "device-type") -> int:
    """The bits of a device type that may pass; PeerProtocolError naming `node` for a type we do not carry."""
    if device_type not in _DEVICE_LET_THROUGH:
        carried = ", ".join(str(known) for known in _DEVICE_LET_THROUGH)
        raise PeerProtocolError(node, str(device_type), f"a device type that the mediator carries: {carried}")
    return _DEVICE_LET_THROUGH[device_type]


def offer(device_type: int, backend_features: int, node: str = "features") -> int:
    """
    What the mediator offers on leg 1 for what the backend offered on leg 2.

    PeerProtocolError, naming `node`, for a backend that lacks what leg 2 rests on or whose type we do not
    carry.
    """
    passed = device_bits(device_type) & backend_features
    missing = LEG2 & ~backend_features
    if missing:
        expected = f"also {', '.join(names(missing))}"
        raise PeerProtocolError(node, str(backend_features), expected)
    return TRANSPORT_OFFERED | passed


def check_accepted(offered: int, accepted: int, node: str = "features-accepted") -> None:
    """PeerProtocolError naming `node` when the driver accepted an unoffered bit, or not a required one."""
    unoffered = accepted & ~offered
    if unoffered:
        raise PeerProtocolError(node, str(accepted), f"none of {', '.join(names(unoffered))}, which were not offered")
    missing = REQUIRED & ~accepted
    if missing:
        raise PeerProtocolError(node, str(accepted), f"also {', '.join(names(missing))}, which are required")


def leg2(device_type: int, accepted: int) -> int:
    """The features in force on leg 2, for what the driver accepted on leg 1."""
    return LEG2 | accepted & device_bits(device_type)


# struct virtio_blk_config (virtio 5.2.4): where the fields that the mediator lowers lie
_CAPACITY_BYTES = 8
_SIZE_MAX = struct.Struct("<I"), 8
_SEG_MAX = struct.Struct("<I"), 12
_NUM_QUEUES = struct.Struct("<H"), 34


def clamp_blk_config(config: bytes, *, segments_max: int, size_max: int, queues: int, node: str = "config") -> bytes:
    """
    The backend's struct virtio_blk_config with seg_max, size_max (bytes) and num_queues lowered to the mediator's
    limits. A field beyond the end stays as it is, and so does one of 0 (its feature is not offered), except for
    size_max, whose feature the mediator offers itself. PeerProtocolError naming `node` when the space ends before its
    capacity or inside one of these fields.
    """
    clamped = bytearray(config)
    if len(clamped) < _CAPACITY_BYTES:
        raise PeerProtocolError(node, config.hex(), f"at least {_CAPACITY_BYTES} bytes")
    for (layout, offset), limit in ((_SIZE_MAX, size_max), (_SEG_MAX, segments_max), (_NUM_QUEUES, queues)):
        if len(clamped) <= offset:
            continue
        if len(clamped) < offset + layout.size:
            raise PeerProtocolError(node, config.hex(), f"no end inside the field at byte {offset}")
        (value,) = layout.unpack_from(clamped, offset)
        unlimited = value == 0 and offset == _SIZE_MAX[1]
        layout.pack_into(clamped, offset, limit if unlimited else min(value, limit))
    return bytes(clamped)
