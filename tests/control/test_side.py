# SPDX-License-Identifier: GPL-2.0-or-later
"""One side of a pair on a XenStore that refuses a step."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any, cast

from xen_shadowvq.errors import XenStoreError
from xen_shadowvq.side import Side
from xen_shadowvq.xenbus import Action, Event, Phase, Role
from xen_shadowvq.xenstore import XenStore

OWN, PEER = "/own", "/peer"
PATIENCE_S = 10.0


class Nodes:
    """A XenStore that holds two states."""

    def __init__(self) -> None:
        self.values = {f"{OWN}/state": "6", f"{PEER}/state": "6"}

    def read(self, path: str) -> str | None:
        """As XenStore.read."""
        return self.values.get(path)

    def write(self, path: str, value: str) -> None:
        """As XenStore.write."""
        self.values[path] = value

    def in_transaction(self, work: Callable[[Any], Any]) -> Any:
        """As XenStore.in_transaction."""
        return work(self)


def test_a_removal_that_was_refused_is_not_over() -> None:
    """A device whose directory XenStore refuses to remove is not over, or nobody would try that again; it is once the
    removal has succeeded."""
    refusals, removed = [XenStoreError(errno.EIO, OWN)], list[Action]()

    def perform(action: Action) -> Event | None:
        if action is Action.REMOVE:
            if refusals:
                raise refusals.pop()
            removed.append(action)
        return Event.STOPPED if action is Action.DISCONNECT else None

    side = Side(cast("XenStore", Nodes()), Role.BACK, OWN, PEER, perform, lambda _: None)
    side.begin()
    side.feed(Event.DETACH)
    assert side.phase is Phase.GONE
    assert not side.is_over and side.due is not None
    deadline = time.monotonic() + PATIENCE_S
    while not side.is_over and time.monotonic() < deadline:
        side.look()
    assert side.is_over and removed == [Action.REMOVE]
