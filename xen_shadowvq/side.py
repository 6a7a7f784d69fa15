# SPDX-License-Identifier: GPL-2.0-or-later
"""One side of a XenBus pair: runs the pure state machine of xenbus.py against XenStore and a handler of its actions."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable

from xen_shadowvq.errors import XenStoreError
from xen_shadowvq.xenbus import Action, Event, Phase, Role, peer_event, start, step
from xen_shadowvq.xenstore import XenStore

Perform = Callable[[Action], Event | None]


def read_of_peer(store: XenStore, path: str) -> str | None:
    """A node in a peer's directory. None when it is absent, or not ours to read: so a dead domain's directory looks."""
    try:
        return store.read(path)
    except XenStoreError as error:
        if error.errno == errno.EACCES:
            return None
        raise


class Side:
    """
    Keeps our `state` node true and the machine fed.

    `perform` carries out an action and answers the event that finishes it, or None when that comes later through
    `feed`. It may call `feed` of this side: events queue up and are taken in order.
    """

    def __init__(self, store: XenStore, role: Role, own_path: str, peer_path: str, perform: Perform) -> None:
        self.own_path = own_path
        self.peer_path = peer_path
        self.phase = Phase.PREPARING if role is Role.BACK else Phase.WAITING
        self.untrusted_peer_state: str | None = None  # as it was last fed
        self._store = store
        self._role = role
        self._perform = perform
        self._events: deque[Event] = deque()
        self._running = False

    @property
    def peer_state_path(self) -> str:
        """The node to watch."""
        return f"{self.peer_path}/state"

    def begin(self) -> None:
        """Takes up the pair as a new process finds it, and looks at the peer."""
        first = start(self._role, self._store.read(f"{self.own_path}/state"))
        self._enter(first.next, first.actions, changed=True)
        self.look()

    def look(self) -> None:
        """Feeds the state in which the peer is now."""
        self.feed(self._read_peer())

    def feed(self, event: Event) -> None:
        """Takes an event, and all that follow from it."""
        self._events.append(event)
        if self._running:
            return
        self._running = True
        try:
            while self._events:
                following = step(self._role, self.phase, self._events.popleft())
                changed = following.next is not self.phase
                self._enter(following.next, following.actions, changed)
                if changed and self.phase is not Phase.GONE:
                    self._events.append(self._read_peer())
        finally:
            self._running = False
            self._events.clear()

    def _read_peer(self) -> Event:
        self.untrusted_peer_state = read_of_peer(self._store, self.peer_state_path)
        return peer_event(self.untrusted_peer_state)

    def _enter(self, phase: Phase, actions: tuple[Action, ...], changed: bool) -> None:
        self.phase = phase
        if changed and self._store.read(f"{self.own_path}/state") is not None:
            self._store.write(f"{self.own_path}/state", str(int(phase.state)))
        for action in actions:
            finished = self._perform(action)
            if finished is not None:
                self._events.append(finished)
