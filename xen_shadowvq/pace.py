# SPDX-License-Identifier: GPL-2.0-or-later
"""How often something is tried or allowed: pauses that grow while it fails, and rates that let honest bursts pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

Clock = Callable[[], float]

FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 1.0


class Backoff:
    """Pauses between tries: the first is `first_s`, each is twice the one before, none is longer than `longest_s`."""

    def __init__(
        self, first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S, clock: Clock = time.monotonic
    ) -> None:
        self.failures = 0
        self.due: float | None = None
        """When to try again, on the clock; None: nothing has failed."""
        self.length_s = 0.0
        """The length of the pause under way."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._clock = clock

    @property
    def is_due(self) -> bool:
        """Whether it may be tried now."""
        return self.due is None or self._clock() >= self.due

    def fail(self) -> None:
        """Notes that a try has failed."""
        self.length_s = min(self._longest_s, self._first_s * 2.0 ** min(self.failures, 32))
        self.failures += 1
        self.due = self._clock() + self.length_s

    def reset(self) -> None:
        """Notes that it has worked, or is not wanted any more."""
        self.failures, self.due, self.length_s = 0, None, 0.0


class Rate:
    """
    A token bucket: `burst` at once, then `per_s` a second. Whoever gets none is not refused, but waits until `due`.
    """

    def __init__(self, burst: int, per_s: float, clock: Clock = time.monotonic) -> None:
        self.waits = 0
        """How often somebody had to wait."""
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()
        self._short = False
        self._waiting = False

    @property
    def due(self) -> float | None:
        """When there will be one for whoever waits; None: nobody waits."""
        return self._at + max(0.0, 1.0 - self._tokens) / self._per_s if self._waiting else None

    def take(self) -> bool:
        """Takes one. False: there is none, wait until `due` and ask again."""
        now = self._clock()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            self._short = self._waiting = False
            return True
        self.waits += not self._short
        self._short = self._waiting = True
        return False

    def forget(self) -> None:
        """Nobody waits any more: what was asked for may have become pointless; if not, it is asked for again."""
        self._waiting = False


class Rounds(Rate):
    """A rate at which something is started again, with pauses before that grow while it fails."""

    def __init__(
        self, burst: int, per_s: float, first_s: float, longest_s: float, clock: Clock = time.monotonic
    ) -> None:
        super().__init__(burst, per_s, clock)
        self.pause = Backoff(first_s, longest_s, clock)
        """Has to be told of each round that fails, and of one that does not."""

    @property
    def due(self) -> float | None:
        rate_due = super().due
        return rate_due if rate_due is None or self.pause.due is None else max(rate_due, self.pause.due)

    def take(self) -> bool:
        if self.pause.is_due:
            return super().take()
        self._waiting = True
        return False


def earliest(times: Iterable[float | None]) -> float | None:
    """The earliest of some times; None if there is none."""
    return min((time_s for time_s in times if time_s is not None), default=None)
