# SPDX-License-Identifier: GPL-2.0-or-later
"""Rounds that come to nothing are begun less and less often."""

from __future__ import annotations

from itertools import pairwise

from xen_shadowvq.pace import Rounds


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rounds_that_fail_are_further_and_further_apart() -> None:
    """Each pause after a failed round is twice the one before, up to the longest; one that does not fail ends that."""
    clock = Clock()
    rounds = Rounds(100, 100.0, 0.5, 3.0, clock)
    starts = []
    for _ in range(6):
        assert rounds.take()
        starts.append(clock.now)
        rounds.pause.fail()
        assert not rounds.take()
        assert rounds.due is not None
        clock.now = rounds.due
    assert [after - before for before, after in pairwise(starts)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    rounds.pause.reset()
    assert rounds.take() and rounds.take()


def test_rounds_that_come_out_well_have_a_rate_all_the_same() -> None:
    """Whoever connects again and again is held to the rate, even if no round fails."""
    clock = Clock()
    rounds = Rounds(3, 2.0, 0.5, 3.0, clock)
    assert [rounds.take() for _ in range(4)] == [True, True, True, False]
    assert rounds.due == clock.now + 0.5
    rounds.forget()
    assert rounds.due is None
