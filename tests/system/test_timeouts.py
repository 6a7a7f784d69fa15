# SPDX-License-Identifier: GPL-2.0-or-later
"""Times that an operator gives are kept, and those that are none are refused. The clock is the test's own."""

from __future__ import annotations

import fcntl
from collections.abc import Callable

import pytest

from xen_shadowvq import devices, lockfile, toolstack
from xen_shadowvq.errors import ConfigError

from .command import ask
from .world import FRONTEND, World

TIMEOUT_S, MEDIATOR_TAKES_S = 12.0, 10.0


class Time:
    """Takes the place of the module `time`; does `work` once `at` seconds have passed."""

    def __init__(self, at: float, work: Callable[[], None]) -> None:
        self.now = 1000.0
        self._at, self._work = self.now + at, work

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._at:
            self._at = float("inf")
            self._work()


@pytest.fixture
def clock(empty_world: World, monkeypatch: pytest.MonkeyPatch) -> Time:
    """Nobody serves; after some time there is an end of the mediator's half of device 0, as if it had closed it."""
    device = empty_world.attach(empty_world.image("disk.img", 1))
    path = empty_world.found(device).path
    clock = Time(MEDIATOR_TAKES_S, lambda: empty_world.store.rm(path))
    for module in (devices, toolstack, lockfile):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_detach_takes_no_longer_than_it_was_told(empty_world: World, clock: Time) -> None:
    """What the mediator took is not given to the backend again: 12 s are 12 s for both together."""
    with pytest.raises(ConfigError, match="did not let go"):
        toolstack.detach(empty_world.dom0, FRONTEND, 0, TIMEOUT_S)
    assert MEDIATOR_TAKES_S < clock.now - 1000.0 < TIMEOUT_S + 1


def test_detach_waits_for_another_command_no_longer(empty_world: World, clock: Time) -> None:
    """A command that has the lock and does not come to its end holds up a detach until its time is over."""
    with (empty_world.sim / "ctl.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another shadowvq process is still at work"):
            toolstack.detach(empty_world.dom0, FRONTEND, 0, TIMEOUT_S)
    assert clock.now - 1000.0 < TIMEOUT_S + 1


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "-inf", "1e9", "soon"])
@pytest.mark.parametrize("verb", ["attach", "detach", "resize", "status"])
def test_times_that_are_none(verb: str, value: str, empty_world: World) -> None:
    """A time that is no positive number of seconds, or more than a day, is refused before anything is done."""
    where = [f"--frontend={FRONTEND}", "/disk.img"] if verb == "attach" else [str(FRONTEND), "0"]
    done = ask("ctl", verb, f"--sim={empty_world.sim}", f"--timeout={value}", *where)
    (line,) = done.err.splitlines()
    assert (done.status, done.out) == (2, "") and "--timeout" in line and "seconds" in line
    assert not [path for path in empty_world.nodes("/local/domain") if "/virtio/" in path]
