# SPDX-License-Identifier: GPL-2.0-or-later
"""That the observer sees: each kind of breach is made by hand here, and none is found where the rule is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from domU_frontend import blk
from domU_frontend.ledger import Ledger, ledger_path

from .conftest import Connect, Loop, fail_for_breaches
from .disk_io import batch, goes_on, run
from .keeper import InFlight, Keeper
from .world import BACKEND, FRONTEND, World

GREF = 77  # below any window
PERMIT, READ_ONLY = 1, 4
NO_CLEAR = "defaults:\n  clear: false\n"


Entry = Callable[[int, int], AbstractContextManager[None]]


@pytest.fixture
def entry(world: World) -> Entry:
    """Has an entry in the frontend's grant table for a while, as a mediator that went wrong could."""

    @contextmanager
    def write(flags: int, frame: int) -> Iterator[None]:
        with world.grant_table(FRONTEND) as table:
            place = slice(GREF * 8, GREF * 8 + 8)
            table[place] = (flags | BACKEND << 16 | frame << 32).to_bytes(8, "little")
            yield
            table[place] = bytes(8)

    return write


@contextmanager
def found(world: World, *words: str) -> Iterator[None]:
    """What is so within is a breach, the first sentence of which says all these words. It does not fail the test."""
    yield
    sentences = world.observer.take()
    assert sentences and all(word in sentences[0] for word in words), sentences


def test_an_entry_for_a_page_of_its_driver_is_found(world: World, connect: Connect, entry: Entry) -> None:
    """A page that no request describes is found as soon as an entry opens it: which page, since when, by which
    reference, what the other domain can read there, and the state of leg 1; a page that no driver has is found too."""
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    frame = frontend.driver.gpa(frontend.driver.data_first_page) // blk.PAGE
    frontend.driver.memory(frame * blk.PAGE, 6)[:] = b"SECRET"
    words = f"frame {frame:#x}", "since the last offer", f"reference {GREF}", "SECRET", "in state 4"
    with entry(PERMIT | READ_ONLY, frame), found(world, *words):
        pass
    with entry(PERMIT, frame + 1), found(world, "writable"):
        pass
    with entry(PERMIT, 4000), found(world, "which no driver has"):
        pass


def test_an_entry_that_comes_too_late_is_found(world: World, connect: Connect, entry: Entry) -> None:
    """A page is found that is still open after its used entry, or after Closed."""
    frontend = connect(world.attach(world.image("disk.img")))
    requests = batch(frontend, blk.IN, 0, [4096])
    frame = requests[0].buffer // blk.PAGE
    run(frontend, requests)
    with entry(PERMIT, frame), found(world, "since a used entry"):
        pass
    frontend.disconnect()
    with entry(PERMIT, frame), found(world, "since Closed", "in state 6"):
        pass


def test_a_used_entry_before_the_end_of_a_grant_is_found(world: World, connect: Connect) -> None:
    """A request that its driver believes to be over while its pages are granted is found, page by page."""
    device = world.attach(world.image("disk.img"))
    request = InFlight(world, connect(device), device)
    with found(world, "since Closed"):
        Ledger.open(ledger_path(world.sim, FRONTEND, device)).take_back("CLOSED")
    world.backend.resume()
    request.abandon()


def test_what_was_on_a_page_before_is_found(empty_world: World, connect: Connect) -> None:
    """Where pages are not cleared although that is promised, the first read request is found."""
    empty_world.start_backend()
    empty_world.start_mediator(NO_CLEAR)
    device = empty_world.attach(empty_world.image("disk.img"))
    frontend = connect(device)
    request = InFlight(empty_world, frontend, device)
    with found(empty_world, "what its driver had there"):
        empty_world.observer.clears = True
        empty_world.observer.look()
        empty_world.observer.clears = False
    empty_world.backend.resume()
    request.abandon()


def test_an_end_that_is_said_of_a_kept_page_is_found(world: World, connect: Connect) -> None:
    """As long as the backend keeps a page mapped, Closed and a grown `swept` are breaches."""
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    with Keeper(world) as keeper:
        request = InFlight(world, frontend, device)
        keeper.keep(request.grefs[:1])
        with found(world, "mapped", "is Closed"):
            state = f"{world.found(device).path}/state"
            world.store.write(state, "6")
            world.observer.look()
            world.store.write(state, "4")
        keeper.let_go()
        keeper.keep(request.grefs[:1])
        with found(world, "mapped", "swept"):
            world.store.write(f"/local/domain/{FRONTEND}/shadowvq/{device}/swept", "1")
        world.backend.resume()
        request.abandon()


def test_honest_work_is_seen_and_is_no_breach(world: World, connect: Connect, loop: Loop) -> None:
    """While requests come and go the observer looks again and again, sees their grants, and finds nothing; a breach
    fails the test that runs."""
    going = loop(connect(world.attach(world.image("disk.img"))))
    before = world.observer.looks
    goes_on(world, going)
    world.until(lambda: world.observer.open_max > 0 and world.observer.looks > before + 10, "looks")
    going.stop()
    fail_for_breaches()
    world.observer.report("made up")
    with pytest.raises(pytest.fail.Exception, match=r"1 breach.*\n.*made up"):
        fail_for_breaches()
