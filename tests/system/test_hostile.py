# SPDX-License-Identifier: GPL-2.0-or-later
"""A connected frontend that writes bad chains into its rings, or kicks without end: only its own device suffers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from domU_frontend.frontend import Frontend
from domU_frontend.hostile import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, PAGE_BYTES, Desc, RingLayout, RingWriter
from xen_shadowvq.native import load

from .conftest import connector
from .disk_io import IoLoop, write_and_compare
from .test_crash import goes_on
from .world import FRONTEND, FRONTEND_MIB, MIB, OTHER, World

PAGES = 2048
SIZE = 64
KICKS_A_TURN = 2000
PAUSE_S = 0.02


class Villain:
    """The rings of a connected frontend in its own hands."""

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend
        driver, at = frontend.driver, frontend.driver.addresses(0)
        base = driver.gpa(0)
        layout = RingLayout(at.size, at.desc - base, at.avail - base, at.used - base)
        self.ring = RingWriter(driver.memory(base, PAGES * PAGE_BYTES), layout, base)
        self.data = driver.gpa(driver.data_first_page)
        self.table = driver.data_first_page * PAGE_BYTES + 64 * PAGE_BYTES

    def offer(self, *heads: int) -> None:
        """Makes the heads available and kicks."""
        self.ring.offer(heads)
        self.kick()

    def kick(self) -> None:
        """One notification, wanted or not."""
        load("driver").lib.svq_drv_kick(self.frontend.driver.handle, 0)


def head_range(v: Villain) -> None:
    """A head beyond the ring."""
    v.offer(SIZE)


def next_range(v: Villain) -> None:
    """A next beyond the table."""
    v.ring.set_desc(3, v.data, 16, DESC_F_NEXT, SIZE + 7)
    v.offer(3)


def loops(v: Villain) -> None:
    """A chain that bites its tail."""
    v.ring.set_desc(1, v.data, 16, DESC_F_NEXT, 2)
    v.ring.set_desc(2, v.data, 16, DESC_F_NEXT, 1)
    v.offer(1)


def avail_jump(v: Villain) -> None:
    """An available index far ahead."""
    v.ring.set_avail((v.ring.avail_idx + 1000) % 0x10000)
    v.kick()


def no_ram(v: Villain) -> None:
    """A buffer just beyond the memory."""
    v.ring.set_chain(5, [(FRONTEND_MIB * MIB, 4096, DESC_F_WRITE)])
    v.offer(5)


def wraps(v: Villain) -> None:
    """A buffer across the end of all addresses."""
    v.ring.set_chain(5, [(2**64 - 4096, 8192, DESC_F_WRITE)])
    v.offer(5)


def zero_length(v: Villain) -> None:
    """A buffer without bytes."""
    v.ring.set_chain(6, [(v.data, 0, 0)])
    v.offer(6)


def wrong_order(v: Villain) -> None:
    """Readable after writable."""
    v.ring.set_chain(7, [(v.data, 16, DESC_F_WRITE), (v.data, 16, 0)])
    v.offer(7)


def nested(v: Villain) -> None:
    """An indirect table within one."""
    at = v.ring.set_table(v.table, [Desc(v.data, 16, DESC_F_INDIRECT)])
    v.ring.set_desc(9, at, 16, DESC_F_INDIRECT)
    v.offer(9)


def odd_table(v: Villain) -> None:
    """An indirect table of 24 bytes."""
    v.ring.set_desc(9, v.data, 24, DESC_F_INDIRECT)
    v.offer(9)


def huge_table(v: Villain) -> None:
    """An indirect table longer than any."""
    v.ring.set_desc(9, v.data, 0xFFFFFFF0, DESC_F_INDIRECT)
    v.offer(9)


def table_next(v: Villain) -> None:
    """A next beyond the indirect table."""
    at = v.ring.set_table(v.table, [Desc(v.data, 16, DESC_F_NEXT, 0xFFFF)])
    v.ring.set_desc(9, at, 16, DESC_F_INDIRECT)
    v.offer(9)


CASES: dict[str, tuple[Callable[[Villain], None], list[str]]] = {
    "HEAD_RANGE": (head_range, ["head 64", "below the queue size"]),
    "NEXT_RANGE": (next_range, ["head 3", "value 71", "below the size of its table"]),
    "CHAIN_LOOP": (loops, ["head 1", "no loop"]),
    "AVAIL_IDX_JUMP": (avail_jump, ["value 1000", "limit 64", "at most the queue size"]),
    "NOT_RAM": (no_ram, ["head 5", "desc 5", "must be RAM"]),
    "ADDRESS_WRAP": (wraps, ["head 5", "desc 5", "stay within"]),
    "ZERO_LENGTH": (zero_length, ["head 6", "desc 6", "must have a length"]),
    "WRITABLE_BEFORE_READABLE": (wrong_order, ["head 7", "desc 8", "readable descriptors must come before"]),
    "INDIRECT_NESTED": (nested, ["head 9", "indirect_desc 0", "inside an indirect table"]),
    "INDIRECT_LENGTH": (odd_table, ["head 9", "value 24", "multiple of 16"]),
    "INDIRECT_TOO_LONG": (huge_table, ["head 9", "at most queue-size entries"]),
    "NEXT_RANGE in a table": (table_next, ["head 9", "indirect_desc 0", "value 65535"]),
}


@pytest.fixture(scope="module")
def neighbour(shared_world: World) -> Iterator[IoLoop]:
    """Another frontend of the same mediator, whose I/O goes on all the time."""
    with ExitStack() as stack:
        device = shared_world.attach(shared_world.image("other.img"), OTHER)
        io = IoLoop(connector(shared_world, stack)(device, OTHER), pause_s=PAUSE_S)
        yield io
        io.stop()


@pytest.fixture(scope="module")
def foothold(shared_world: World) -> None:
    """Keeps the frontend's domain alive between tests."""
    shared_world.keep_alive(FRONTEND)


@pytest.fixture
def villain(shared_world: World, foothold: None) -> Iterator[Villain]:
    """A connected frontend with a device of its own, after a bit of honest I/O."""
    del foothold
    device = shared_world.attach(shared_world.image("villain.img"))
    with ExitStack() as stack:
        frontend = connector(shared_world, stack)(device, pages=PAGES, queue_size=SIZE)
        write_and_compare(frontend, random.Random(1), 0)
        yield Villain(frontend)
    shared_world.detach(device)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_chain_breaks_its_own_device(case: str, shared_world: World, villain: Villain, neighbour: IoLoop) -> None:
    """The device says needs-reset and one sentence with queue, head and what was expected, the log one line; others'
    I/O goes on; and after a new connection the same device works."""
    world, frontend, (attack, words) = shared_world, villain.frontend, CASES[case]
    lines = len(world.mediator.events("device_broken"))
    attack(villain)
    frontend.wait_closed()
    path = world.found(0).path
    told = world.store.read(f"{path}/error") or ""
    assert world.store.read(f"{path}/needs-reset") == "1"
    code, _, _ = case.partition(" ")
    assert f"SVQ_E_{code} (queue 0" in told and "source" in told and "\n" not in told
    assert [word for word in words if word not in told] == [], told
    assert len(world.mediator.events("device_broken")) - lines <= 1
    goes_on(world, neighbour, 1)

    frontend.reconnect()
    assert world.store.read(f"{path}/needs-reset") == "0"
    assert world.store.read(f"{path}/error") is None
    write_and_compare(frontend, random.Random(2), 0)
    frontend.disconnect()
    assert "window_in_use" not in world.status(0)


def test_a_device_that_breaks_again_and_again_fills_no_log(shared_world: World, villain: Villain) -> None:
    """Ten bad chains in a row, each on a new connection, make fewer lines in the log than there were, and every line
    that was left out is counted in the next one."""
    world, frontend = shared_world, villain.frontend
    before = len(world.mediator.events("device_broken"))
    for _ in range(10):
        villain.offer(SIZE + 1)
        frontend.wait_closed()
        frontend.reconnect()
    lines = world.mediator.events("device_broken")[before:]
    assert len(lines) + sum(line.get("left_out", 0) for line in lines) <= 10 + 1
    assert all("SVQ_E_HEAD_RANGE" in line["reason"] for line in lines)
    write_and_compare(frontend, random.Random(2), 0)


def test_kicks_without_work_are_held_back(shared_world: World, villain: Villain, neighbour: IoLoop) -> None:
    """A frontend that kicks without end is throttled, its device stays well, and another frontend's I/O completes."""
    world = shared_world
    before = world.status(0)["throttled"]

    def storm() -> bool:
        for _ in range(KICKS_A_TURN):
            villain.kick()
        return bool(world.status(0)["throttled"] > before)

    world.until(storm, "throttled event channel")
    goes_on(world, neighbour)
    assert world.store.read(f"{world.found(0).path}/error") is None
    write_and_compare(villain.frontend, random.Random(2), 0)
