# SPDX-License-Identifier: GPL-2.0-or-later
"""Work on images that may hang."""

from __future__ import annotations

import threading

import pytest

from dom0_backend.chores import Chores
from xen_shadowvq.errors import XenStoreTimeout

PATIENCE_S = 30.0


class Loop:
    """Hears when pieces of work end, and settles."""

    def __init__(self) -> None:
        self.told = threading.Semaphore(0)
        self.results: list[object] = []
        self.chores = Chores("svq-test", self.told.release)

    def wait(self, pieces: int) -> None:
        """Waits for that many pieces to end."""
        for _ in range(pieces):
            assert self.told.acquire(timeout=PATIENCE_S)

    def take(self, result: object) -> None:
        """What follows from a piece of work."""
        self.results.append((result, threading.current_thread() is threading.main_thread()))


def test_work_is_done_in_order_and_followed_up_by_who_settles() -> None:
    """Pieces of work end in the order in which they were asked for, errors among them, and what follows happens
    in the thread that settles, when it does."""
    loop, error = Loop(), ValueError("a defect")

    def fail() -> int:
        raise error

    for work in (lambda: 1, fail, lambda: 3):
        loop.chores.do(work, loop.take)
    loop.wait(3)
    assert loop.results == [] and loop.chores.settled and not loop.chores.busy
    loop.chores.settle()
    assert loop.results == [(1, True), (error, True), (3, True)]
    loop.chores.do(lambda: 4, loop.take)  # its thread had ended
    loop.wait(1)
    loop.chores.settle()
    assert loop.results[-1] == (4, True)


def test_nobody_waits_for_work_that_hangs() -> None:
    """While a piece of work hangs, more can be asked for and there is nothing to settle; others' work goes on."""
    hanging, other, end = Loop(), Loop(), threading.Event()
    hanging.chores.do(end.wait, hanging.take)
    hanging.chores.do(lambda: 2, hanging.take)
    other.chores.do(lambda: 1, other.take)
    other.wait(1)
    other.chores.settle()
    hanging.chores.settle()
    assert other.results == [(1, True)]
    assert hanging.results == [] and hanging.chores.busy
    end.set()
    hanging.wait(2)
    hanging.chores.settle()
    assert hanging.results == [(True, True), (2, True)] and not hanging.chores.busy


def test_what_xenstore_refuses_is_due_still() -> None:
    """What follows from a piece of work and meets trouble with XenStore is done by the next call; a defect is not."""
    loop, tries = Loop(), []

    def refused(result: object) -> None:
        tries.append(result)
        if len(tries) == 1:
            raise XenStoreTimeout("later")
        raise ValueError("a defect")

    loop.chores.do(lambda: 1, refused)
    loop.wait(1)
    with pytest.raises(XenStoreTimeout):
        loop.chores.settle()
    assert loop.chores.settled
    with pytest.raises(ValueError, match="a defect"):
        loop.chores.settle()
    assert not loop.chores.settled and tries == [1, 1]
