# SPDX-License-Identifier: GPL-2.0-or-later
"""What a hostile driver writes into its rings: each malformed chain, with what the mediator has to say about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from domU_frontend.hostile.rings import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    PAGE_BYTES,
    Desc,
    RingLayout,
    RingWriter,
)
from xen_shadowvq.native import load

if TYPE_CHECKING:
    from domU_frontend.frontend import Frontend

TABLE_PAGE = 64  # of the data pages


class HostileDriver:
    """Writes the rings of a connected frontend by hand."""

    def __init__(self, frontend: Frontend, memory_end: int) -> None:
        self.frontend = frontend
        self.memory_end = memory_end
        driver, at = frontend.driver, frontend.driver.addresses(0)
        layout = RingLayout(at.size, *map(driver.offset, (at.desc, at.avail, at.used)))
        self.ring = RingWriter(driver.memory(driver.gpa(0), driver.pages * PAGE_BYTES), layout)
        self.data = driver.gpa(driver.data_first_page)

    def table(self, *descs: Desc) -> int:
        """Writes an indirect table into a page of its own; returns its guest physical address."""
        driver = self.frontend.driver
        gpa = driver.gpa(driver.data_first_page + TABLE_PAGE)
        packed = b"".join(desc.pack() for desc in descs)
        driver.memory(gpa, len(packed))[:] = packed
        return gpa

    def offer(self, *heads: int) -> None:
        """Makes the heads available and kicks."""
        self.frontend.driver.by_hand()
        self.ring.offer(heads)
        self.kick()

    def kick(self) -> None:
        """Sends one notification, wanted or not."""
        load("driver").lib.svq_drv_kick(self.frontend.driver.handle, 0)


def head_range(v: HostileDriver) -> None:
    """A head beyond the ring."""
    v.offer(v.ring.size)


def next_range(v: HostileDriver) -> None:
    """A next beyond the table."""
    v.ring.set_desc(3, v.data, 16, DESC_F_NEXT, v.ring.size + 7)
    v.offer(3)


def loops(v: HostileDriver) -> None:
    """A chain that is a loop."""
    v.ring.set_desc(1, v.data, 16, DESC_F_NEXT, 2)
    v.ring.set_desc(2, v.data, 16, DESC_F_NEXT, 1)
    v.offer(1)


def avail_jump(v: HostileDriver) -> None:
    """An available index far ahead."""
    v.frontend.driver.by_hand()
    v.ring.set_avail((v.ring.avail_idx + 1000) % 0x10000)
    v.kick()


def no_ram(v: HostileDriver) -> None:
    """A buffer just beyond the memory."""
    v.ring.set_chain(5, [(v.memory_end, 4096, DESC_F_WRITE)])
    v.offer(5)


def wraps(v: HostileDriver) -> None:
    """A buffer across the end of all addresses."""
    v.ring.set_chain(5, [(2**64 - 4096, 8192, DESC_F_WRITE)])
    v.offer(5)


def zero_length(v: HostileDriver) -> None:
    """A buffer without bytes."""
    v.ring.set_chain(6, [(v.data, 0, 0)])
    v.offer(6)


def wrong_order(v: HostileDriver) -> None:
    """Readable after writable."""
    v.ring.set_chain(7, [(v.data, 16, DESC_F_WRITE), (v.data, 16, 0)])
    v.offer(7)


def nested(v: HostileDriver) -> None:
    """An indirect table within one."""
    at = v.table(Desc(v.data, 16, DESC_F_INDIRECT))
    v.ring.set_desc(9, at, 16, DESC_F_INDIRECT)
    v.offer(9)


def odd_table(v: HostileDriver) -> None:
    """An indirect table of 24 bytes."""
    v.ring.set_desc(9, v.data, 24, DESC_F_INDIRECT)
    v.offer(9)


def huge_table(v: HostileDriver) -> None:
    """An indirect table longer than any table may be."""
    v.ring.set_desc(9, v.data, 0xFFFFFFF0, DESC_F_INDIRECT)
    v.offer(9)


def table_next(v: HostileDriver) -> None:
    """A next beyond the indirect table."""
    at = v.table(Desc(v.data, 16, DESC_F_NEXT, 0xFFFF))
    v.ring.set_desc(9, at, 16, DESC_F_INDIRECT)
    v.offer(9)


# By the mediator's error code: the attack, and words that the mediator's message has; {size} is the queue's.
CASES: dict[str, tuple[Callable[[HostileDriver], None], list[str]]] = {
    "HEAD_RANGE": (head_range, ["head {size}", "below the queue size"]),
    "NEXT_RANGE": (next_range, ["head 3", "value {beyond}", "below the size of its table"]),
    "CHAIN_LOOP": (loops, ["head 1", "no loop"]),
    "AVAIL_IDX_JUMP": (avail_jump, ["value 1000", "limit {size}", "at most the queue size"]),
    "NOT_RAM": (no_ram, ["head 5", "desc 5", "must be RAM"]),
    "ADDRESS_WRAP": (wraps, ["head 5", "desc 5", "stay within"]),
    "ZERO_LENGTH": (zero_length, ["head 6", "desc 6", "length must not be zero"]),
    "WRITABLE_BEFORE_READABLE": (wrong_order, ["head 7", "desc 8", "readable descriptors must come before"]),
    "INDIRECT_NESTED": (nested, ["head 9", "indirect_desc 0", "inside an indirect table"]),
    "INDIRECT_LENGTH": (odd_table, ["head 9", "value 24", "multiple of 16"]),
    "INDIRECT_TOO_LONG": (huge_table, ["head 9", "at most queue-size entries"]),
    "NEXT_RANGE in a table": (table_next, ["head 9", "indirect_desc 0", "value 65535"]),
}


def missing_words(case: str, size: int, told: str) -> list[str]:
    """What the mediator's message lacks; empty if it says all that it has to."""
    code, _, _ = case.partition(" ")
    wanted = [word.format(size=size, beyond=size + 7) for word in CASES[case][1]]
    return [word for word in (f"SVQ_E_{code} (queue 0", "source", *wanted) if word not in told]
