# SPDX-License-Identifier: GPL-2.0-or-later
"""A connected frontend that writes bad chains into its rings, or kicks without end: only its own device suffers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise

import pytest

from domU_frontend.hostile.attacks import CASES, HostileDriver, missing_words
from xen_shadowvq.trouble import complaints

from .conftest import connector
from .disk_io import IoLoop, goes_on, write_and_compare
from .world import FRONTEND, FRONTEND_MIB, MIB, World

PAGES = 2048
SIZE = 64
KICKS_A_TURN = 2000
LOG_INTERVAL_S = complaints.interval_s
CLOCKS_DIFFER_S = 0.1  # lines carry the time of day, the interval is of the monotonic clock


@pytest.fixture(scope="module")
def foothold(shared_world: World) -> None:
    """Keeps the frontend's domain alive between tests."""
    shared_world.keep_alive(FRONTEND)


@pytest.fixture
def villain(shared_world: World, foothold: None) -> Iterator[HostileDriver]:
    """A connected frontend with a device of its own, after a bit of honest I/O."""
    del foothold
    device = shared_world.attach(shared_world.image("villain.img"))
    with ExitStack() as stack:
        frontend = connector(shared_world, stack)(device, pages=PAGES, queue_size=SIZE)
        write_and_compare(frontend, random.Random(1), 0)
        yield HostileDriver(frontend, FRONTEND_MIB * MIB)
    shared_world.detach(device)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_chain_breaks_its_own_device(
    case: str, shared_world: World, villain: HostileDriver, neighbour: IoLoop
) -> None:
    """The device says needs-reset and one sentence with queue, head and what was expected, the log one line; others'
    I/O goes on; and after a new connection the same device works."""
    world, frontend, (attack, _) = shared_world, villain.frontend, CASES[case]
    lines = len(world.mediator.events("device_broken"))
    attack(villain)
    frontend.wait_closed()
    path = world.found(0).path
    told = world.store.read(f"{path}/error") or ""
    assert world.store.read(f"{path}/needs-reset") == "1"
    assert missing_words(case, SIZE, told) == [] and "\n" not in told, told
    assert len(world.mediator.events("device_broken")) - lines <= 1
    goes_on(world, neighbour, 1)

    frontend.reconnect()
    assert world.store.read(f"{path}/needs-reset") == "0"
    assert world.store.read(f"{path}/error") == ""
    write_and_compare(frontend, random.Random(2), 0)
    frontend.disconnect()
    assert "window_in_use" not in world.status(0)


def test_a_device_that_breaks_again_and_again_fills_no_log(shared_world: World, villain: HostileDriver) -> None:
    """However fast bad chains follow one another, each on a new connection, their lines in the log are an interval
    apart, and none that was left out is counted twice."""
    world, frontend = shared_world, villain.frontend
    before = len(world.mediator.events("device_broken"))
    for _ in range(10):
        villain.offer(SIZE + 1)
        frontend.wait_closed()
        frontend.reconnect()
    lines = world.mediator.events("device_broken")[before:]
    times = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines]
    assert all(second - first > LOG_INTERVAL_S - CLOCKS_DIFFER_S for first, second in pairwise(times)), times
    # The first of them counts also what was left out of the tests before this one.
    assert len(lines) + sum(line.get("left_out", 0) for line in lines[1:]) <= 10
    assert all("SVQ_E_HEAD_RANGE" in line["reason"] for line in lines)
    write_and_compare(frontend, random.Random(2), 0)


def test_kicks_without_work_are_held_back(shared_world: World, villain: HostileDriver, neighbour: IoLoop) -> None:
    """A frontend that kicks without end is throttled, its device stays well, and another frontend's I/O completes."""
    world = shared_world
    before = world.status(0)["throttled"]

    def storm() -> bool:
        for _ in range(KICKS_A_TURN):
            villain.kick()
        return bool(world.status(0)["throttled"] > before)

    world.until(storm, "throttled event channel")
    goes_on(world, neighbour)
    assert world.store.read(f"{world.found(0).path}/error") == ""
    write_and_compare(villain.frontend, random.Random(2), 0)
