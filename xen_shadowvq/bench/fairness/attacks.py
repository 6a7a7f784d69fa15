# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a frontend can do to whoever shares a worker with it. Each attack is a function that does its worst on one device
until it is over; a frontend runs it on as many devices at once as `Attack.devices` says.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from domU_frontend.hostile.attacks import CASES, HostileDriver
from domU_frontend.hostile.rings import DESC_F_WRITE, PAGE_BYTES
from xen_shadowvq.bench.fairness.assailant import (
    NO_SUCH_TYPE,
    PATIENCE_S,
    QUEUE_SIZE,
    READ,
    SECTOR,
    WRITE_ZEROES,
    Assailant,
    Part,
)

QUEUES = 16
"""As many as the mediator lets a device have (limits.queues_per_device)."""

MIB = 1 << 20
TARGETS = 64 * MIB
"""Where the memory that chains are aimed at begins; the drivers' rings and tables are below it."""

_BEYOND_THE_DISK = 1 << 40  # a sector: the backend refuses the request without touching its data
_CHUNK = 2 * MIB  # what the mediator maps at a time
_TABLE_PARTS = 256
_DRIPS, _DRIP_BYTES, _DRIP_WRITABLE = 48, 64 * 1024, 16
_STORM_KICKS = 30  # one more without work, and the mediator holds a peer's events back


@dataclass(frozen=True)
class Attack:
    """`label` says what the frontend does; `memory_mib` is how much memory it has."""

    name: str
    label: str
    run: Callable[[Assailant], None]
    devices: int = 1
    queues: int = 1
    memory_mib: int = 128


# ---- chains that are as large as they can be -------------------------------------------------------------------------


def _four_gib(device: Assailant, queue: int) -> list[Part]:
    """A request of nearly 4 GiB in 16 MiB pieces."""
    data = [(TARGETS + piece * 16 * MIB, 16 * MIB, 0) for piece in range(_TABLE_PARTS - 2)]
    return [device.header(queue, READ, _BEYOND_THE_DISK), *data, device.status(queue)]


def huge_direct(device: Assailant) -> None:
    """Chains of 4 GiB, each as long as the ring's descriptor table."""
    device.flood(lambda queue: [device.rings[queue].set_chain(0, _four_gib(device, queue))])


def huge_indirect(device: Assailant) -> None:
    """The same in indirect tables: a ring full of them, all of the same memory."""
    device.flood(lambda queue: [device.in_table(queue, head, _four_gib(device, queue)) for head in range(QUEUE_SIZE)])


def _largest_legal(device: Assailant, slot: int, start: int) -> list[Part]:
    """
    As many and as long segments as the device allows, none aligned. Half are to be read and half to be written, so that
    both pools are needed. A request type that does not exist costs the backend least.
    """
    geometry = device.frontend.geometry
    size = min(geometry.size_max, PAGE_BYTES)
    segments = min(geometry.segments_max, _TABLE_PARTS - 2)
    parts = [(start + at * 2 * PAGE_BYTES + 8, size, 0) for at in range(segments)]
    half = len(parts) // 2
    writable = [(gpa, length, DESC_F_WRITE) for gpa, length, _ in parts[half:]]
    return [device.header(slot, NO_SUCH_TYPE), *parts[:half], *writable, device.status(slot)]


def many_queues(device: Assailant) -> None:
    """All queues full of the most expensive chains that the device allows."""

    def aim(queue: int) -> list[int]:
        starts = count(TARGETS, 2 * MIB)
        return [device.in_table(queue, head, _largest_legal(device, queue, next(starts))) for head in range(8)]

    device.flood(aim)


# ---- chains that wait ------------------------------------------------------------------------------------------------


def _drip(device: Assailant, queue: int, number: int) -> int:
    """
    A request that holds bounce slots while the backend writes zeroes; the higher its number, the longer it takes. So
    the requests come back one by one.
    """
    sectors = (number + 1) * _DRIP_BYTES // SECTOR
    header = device.header(number, WRITE_ZEROES, ranges=(0, sectors))
    start = TARGETS + queue * MIB + number * PAGE_BYTES
    writable = [(start + at * 64, 1, DESC_F_WRITE) for at in range(_DRIP_WRITABLE - 1)]
    return device.in_table(queue, number, [header, *writable, device.status(number)])


def _parked(device: Assailant, waiting: Callable[[int], Sequence[Part]]) -> None:
    def aim(queue: int) -> list[int]:
        heads = [_drip(device, queue, number) for number in range(_DRIPS)]
        return [*heads, device.in_table(queue, _DRIPS, waiting(queue))]

    device.flood(aim)


def parked_huge(device: Assailant) -> None:
    """A chain of 4 GiB that at its end needs more slots than are free, behind requests that come back one by one."""

    def waiting(queue: int) -> list[Part]:
        slots = [(TARGETS + at * 64, 1, DESC_F_WRITE) for at in range(_TABLE_PARTS - 3)]
        data = (TARGETS + 16 * MIB, 4032 * MIB, 0)
        return [device.header(_DRIPS, READ, _BEYOND_THE_DISK), data, *slots, device.status(_DRIPS)]

    _parked(device, waiting)


def parked_legal(device: Assailant) -> None:
    """The same with the largest chain that the device allows, on all queues."""
    _parked(device, lambda queue: _largest_legal(device, _DRIPS, TARGETS + 32 * MIB + queue * 2 * MIB))


# ---- events, memory, connections -------------------------------------------------------------------------------------


def event_storm(device: Assailant) -> None:
    """Endless kicks on all queues, with just enough work among them that they do not count as spurious."""
    while not device.stopped():
        for queue in device.queues:
            whole = [device.header(queue, NO_SUCH_TYPE), device.status(queue)]
            device.offer(queue, [device.in_table(queue, 0, whole)])
        while not device.stopped() and device.connected():
            for queue in device.queues:
                for _ in range(_STORM_KICKS):
                    device.kick(queue)
                device.offer(queue, device.take_back(queue))
        if not device.stopped():
            device.after_a_break()


def fresh_memory(device: Assailant) -> None:
    """Chains all over untouched memory; once all of it was touched, a new connection forgets that."""
    chunks = range(TARGETS + PAGE_BYTES, device.memory_bytes, _CHUNK)
    while not device.stopped():
        segments = min(device.frontend.geometry.segments_max, _TABLE_PARTS - 2)
        heads = []
        for head, first in enumerate(range(0, len(chunks), segments)):
            parts = [(gpa, 16, 0) for gpa in chunks[first : first + segments]]
            heads.append(device.in_table(0, head, [device.header(0, NO_SUCH_TYPE), *parts, device.status(0)]))
        device.offer(0, heads)
        device.wait_for(len(heads))
        device.counts["sweeps"] += 1
        if not device.connected():
            device.after_a_break()
        elif not device.stopped():
            device.disconnect()
            device.connect()


def ring_resets(device: Assailant) -> None:
    """Resets of one queue after another."""
    while not device.stopped():
        for queue in device.queues:
            device.frontend.reset_queue(queue, PATIENCE_S)
            device.counts["resets"] += 1


def reconnects(device: Assailant) -> None:
    """Closes and connects again, with all queues that a device may have."""
    while not device.stopped():
        device.disconnect()
        device.connect()


def malformed(device: Assailant) -> None:
    """One malformed chain after another, each on a new connection."""
    chooser = random.Random(1)  # noqa: S311 - an order of attacks
    cases = [attack for attack, _ in CASES.values()]
    while not device.stopped():
        villain = HostileDriver(device.frontend, device.memory_bytes)
        chooser.choice(cases)(villain)
        device.after_a_break()


ATTACKS = (
    Attack("huge_direct", "chains of 4 GiB", huge_direct, memory_mib=4352),
    Attack("huge_indirect", "chains of 4 GiB, indirect", huge_indirect, memory_mib=4352),
    Attack("many_queues", "all queues, costliest chains", many_queues, queues=QUEUES),
    Attack("parked_huge", "parked chains of 4 GiB", parked_huge, memory_mib=4352),
    Attack("parked_legal", "parked chains, all queues", parked_legal, queues=QUEUES, memory_mib=256),
    Attack("event_storm", "event storm, all queues", event_storm, queues=QUEUES),
    Attack("fresh_memory", "memory never touched", fresh_memory, memory_mib=8192),
    Attack("ring_resets", "ring resets", ring_resets, devices=4, queues=4),
    Attack("reconnects", "reconnects, all queues", reconnects, devices=2, queues=QUEUES),
    Attack("malformed", "malformed chains", malformed, devices=4),
)
