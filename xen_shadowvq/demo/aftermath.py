# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a backend's domain can reach of memory that the frontend has back: after it kept a mapping, and after the
mediator's end.

Each time the frontend gets memory back, it uses it for something private: tags with a seed that was never used before.
A page counts as reachable if the attacker sees one of these tags in any way, or has changed one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

KEPT = 3


class Call(Protocol):
    """Calls a method of a part that may be in another process, or another domain; return values are plain JSON."""

    def __call__(self, method: str, /, **arguments: Any) -> Any: ...


@dataclass
class Aftermath:
    """What became of requests that were alive, and what was reachable afterwards."""

    requests: int
    pages_kept: int
    pages_held: int = 0
    pages_left: int | None = None
    completed: int = 0
    failed: int = 0
    waiting: int = 0
    reachable: int = 0

    @property
    def guest_saw(self) -> str:
        """What the guest saw, in one sentence."""
        ended = f"{self.completed} of {self.requests} requests completed, {self.failed} failed"
        if not self.pages_kept:
            return f"{ended} (nothing was granted that could have been kept)"
        if not self.pages_held:
            return f"{ended}; Closed while the backend kept {self.pages_kept} pages"
        if self.pages_left is not None:
            told = f"{ended}, {self.waiting} waiting without a mediator, {self.pages_held} pages held"
            return f"{told}; back when dom0 had swept, {self.pages_left} pages held then"
        return (
            f"{ended}, {self.waiting} waiting while Closing with {self.pages_held} pages held; "
            "Closed once the backend had let go of them"
        )


class Witness:
    """
    The frontend and the attacker together.

    Args:
        attacker: the backend's domain, with the honest backend in its hands: `hold` has it hold requests.
        where: what the attacker looks through: the arguments of its `see`, except the seed.
    """

    def __init__(self, frontend: Call, attacker: Call, where: dict[str, Any]) -> None:
        self._frontend, self._attacker, self._where = frontend, attacker, where

    def kept_mapping(self, offset: int) -> Aftermath:
        """The backend completes requests but keeps some of their pages mapped."""
        after = self._start(offset)
        self._attacker("hold", on=False)
        if after.pages_kept:
            self._watch_the_end(after)
        else:
            after.completed = self._frontend("finish_held")["count"]
            after.reachable += self._reachable()
        return after

    def mediator_killed(self, offset: int, kill: Callable[[], None], restart: Callable[[], None]) -> Aftermath:
        """The mediator is killed while requests are alive, some of whose pages the backend keeps, and started again."""
        after = self._start(offset)
        kill()
        after.reachable += self._reachable()  # nobody has told the guest anything, so it has nothing back
        restart()
        self._watch_the_end(after)
        return after

    def mediator_destroyed(self, offset: int, destroy: Callable[[], None], sweep: Callable[[], int]) -> Aftermath:
        """
        The mediator's domain is destroyed while requests are alive, some of whose pages the backend keeps. Then dom0
        takes back what was granted: `sweep` returns how many pages it could not take back yet. The device is left
        closed.
        """
        after = self._start(offset)
        destroy()
        after.reachable += self._reachable()
        after.pages_held = sweep()
        self._leave(after)
        after.reachable += self._reachable()
        self._attacker("let_go")
        after.pages_left = sweep()
        self._frontend("wait_closed")
        after.reachable += self._reachable()
        return after

    def _start(self, offset: int) -> Aftermath:
        self._attacker("hold", on=True)
        requests = self._frontend("start_held", offset=offset)["requests"]
        self._attacker("wait_held", requests=requests)
        where = {name: self._where[name] for name in ("frontend", "grefs")}
        return Aftermath(requests, self._attacker("keep", count=KEPT, **where)["pages"])

    def _watch_the_end(self, after: Aftermath) -> None:
        if after.pages_kept:
            after.pages_held = self._frontend("wait_held_pages", at_most=after.pages_kept)["pages"]
            after.reachable += self._reachable()
        self._leave(after)
        self._attacker("let_go")
        self._frontend("wait_closed")
        after.reachable += self._reachable()
        self._frontend("reconnect")

    def _leave(self, after: Aftermath) -> None:
        ended = self._frontend("leave_held")
        after.completed, after.waiting = ended["completed"], ended["waiting"]
        after.failed = after.requests - after.completed - after.waiting

    def _reachable(self) -> int:
        seed = self._frontend("use_own")["seed"]
        self._attacker("scribble")
        seen = self._attacker("see", seed=seed, **self._where)["frames"]
        return len(seen) + int(self._frontend("own_changed", seed=seed)["pages"])
