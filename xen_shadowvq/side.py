# SPDX-License-Identifier: GPL-2.0-or-later
"""
One side of a XenBus pair: runs the pure state machine of xenbus.py against XenStore and a handler for its actions.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from functools import partial

from xen_shadowvq.errors import XENSTORE_TROUBLE, PeerProtocolError, ShadowVQError, XenStoreError
from xen_shadowvq.pace import Backoff, Rate, earliest
from xen_shadowvq.publish import rewrite
from xen_shadowvq.xenbus import Action, Event, Phase, Role, Step, peer_event, start, step
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import State

Perform = Callable[[Action], Event | None]
Complain = Callable[[ShadowVQError], None]

TRIES_MAX = 8
"""How often a step towards a connection is tried: some 0.6 s in all. Steps of closing are tried without end."""

UNREADABLE = 3, 0.2
"""How often we report a peer that keeps making its state unreadable: that many at once, then that many a second."""

_TOWARDS_CONNECTION = {Action.OFFER, Action.SETUP, Action.CONNECT}
_ROUND_BEGINS = {Phase.PREPARING, Phase.WAITING}


def read_of_peer(store: XenStore, path: str) -> str | None:
    """A node in a peer's directory. None if it is absent or not ours to read, as when the peer's domain is dead."""
    try:
        return store.read(path)
    except XenStoreError as error:
        if error.errno == errno.EACCES:
            return None
        raise


def reader_of_peer(read: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """
    Returns a reader of a living peer's nodes, which raises PeerProtocolError for a node that the peer made unreadable.
    """

    def checked(path: str) -> str | None:
        try:
            return read(path)
        except XenStoreError as error:
            if error.errno == errno.EACCES:
                raise PeerProtocolError(path, None, "a node that this domain may read") from error
            raise

    return checked


class Side:
    """
    Keeps our `state` node true and the machine fed.

    `perform` carries out an action and returns the event that finishes it, or None if that comes later through `feed`.
    It may call this side's `feed`: events queue up and are taken in order.

    What XenStore refuses is tried again, from that point on, with growing pauses: call `look` when `due` has come. So
    `perform` may be called several times for one action. An action on the way to a connection that fails again and
    again is a fault of this connection, and `complain` is told. Only XenStoreGone is raised; what was owed then is
    still owed.

    `rounds` limits how often a new round begins after Closed; one that comes too early waits until `due`. `peer_lives`
    says, as far as that can be known, whether the peer's domain exists: nothing can be read of one that does not.
    """

    def __init__(
        self,
        store: XenStore,
        role: Role,
        own_path: str,
        peer_path: str,
        perform: Perform,
        complain: Complain,
        rounds: Rate | None = None,
        peer_lives: Callable[[], bool] = lambda: False,
    ) -> None:
        self.own_path = own_path
        self.peer_path = peer_path
        self.phase = Phase.PREPARING if role is Role.BACK else Phase.WAITING
        self.untrusted_peer_state: str | None = None  # as it was last fed
        self.peer_is_unreadable = False  # it was not ours to read then, so it counts as none
        self.trouble: ShadowVQError | None = None  # why something is being tried again
        self._store = store
        self._role = role
        self._perform = perform
        self._complain = complain
        self._rounds = rounds
        self._peer_lives = peer_lives
        self._unreadable_rate = Rate(*UNREADABLE)
        self._events: deque[Event | None] = deque()  # None: look at the peer
        self._owed: deque[Callable[[], None]] = deque()  # what is left of the step under way, in order
        self._acting: Action | None = None
        self._pause = Backoff()
        self._look_pause = Backoff()
        self._running = False

    @property
    def peer_state_path(self) -> str:
        """The node to watch."""
        return f"{self.peer_path}/state"

    @property
    def due(self) -> float | None:
        """When to call `look` without any news; None: nothing waits for that."""
        return earliest((self._pause.due, self._look_pause.due, self._rounds.due if self._rounds else None))

    @property
    def is_over(self) -> bool:
        """Whether the device is gone, and nothing that this took is still to be tried again."""
        return self.phase is Phase.GONE and not self._owed

    def begin(self, *, releasing: bool = False) -> None:
        """
        Takes up the pair as a new process finds it, and looks at the peer. With `releasing`, resources of the process
        before are not released yet: STOPPED is fed later.
        """
        self._owed.append(partial(self._start, releasing))
        self.look()

    def look(self) -> None:
        """Feeds the peer's present state, and continues what had to wait if it is time for that."""
        if self._rounds:
            self._rounds.forget()
        self._take_in(None)

    def feed(self, event: Event) -> None:
        """Takes an event, and all events that follow from it."""
        self._take_in(event)

    # ---- steps -----------------------------------------------------------------------------------------------------

    def _take_in(self, event: Event | None) -> None:
        if not self._events or self._events[-1] is not event:
            self._events.append(event)
        if self._running:
            return
        self._running = True
        try:
            while self._go_on():
                pass
        finally:
            self._running = False

    def _go_on(self) -> bool:
        """
        Carries out what is owed before it takes what has happened since. False: there is nothing, or it has to wait.
        """
        if self._owed:
            return self._pause.is_due and self._carry_out(self._owed[0])
        if not self._events:
            return False
        event = self._events.popleft()
        if event is None:
            event = self._read_peer()
        if event is not None:
            self._take(event)
        return True

    def _carry_out(self, step_owed: Callable[[], None]) -> bool:
        try:
            step_owed()
        except XENSTORE_TROUBLE as error:
            self.trouble = error
            self._pause.fail()
            if self._acting not in _TOWARDS_CONNECTION or self._pause.failures < TRIES_MAX:
                return False
            self._events.append(Event.FAULT)
            self._complain(error)
        finally:
            self._acting = None
        self._owed.popleft()
        self._pause.reset()
        self.trouble = None
        return True

    def _start(self, releasing: bool) -> None:
        own = self._store.read(f"{self.own_path}/state")
        self._enter(Step(Phase.STOPPING) if releasing else start(self._role, own), changed=True)

    def _take(self, event: Event) -> None:
        following = step(self._role, self.phase, event)
        changed = following.next is not self.phase
        if changed and following.next in _ROUND_BEGINS and self._rounds and not self._rounds.take():
            return
        self._enter(following, changed)

    def _enter(self, following: Step, changed: bool) -> None:
        self.phase = following.next
        if changed:
            self._owed.append(self._write_state)
        self._owed.extend(partial(self._act, action) for action in following.actions)
        if changed and self.phase is not Phase.GONE:
            self._owed.append(lambda: self._events.append(None))

    def _read_peer(self) -> Event | None:
        try:
            self.untrusted_peer_state = self._store.read(self.peer_state_path)
            self.peer_is_unreadable = False
        except XENSTORE_TROUBLE as error:
            if isinstance(error, XenStoreError) and error.errno == errno.EACCES:
                self._note_unreadable()
                return peer_event(None)
            self.trouble = error
            self._look_pause.fail()
            return None
        self._look_pause.reset()
        return peer_event(self.untrusted_peer_state)

    def _note_unreadable(self) -> None:
        """
        A state that is not ours to read counts as none. If the peer exists, that is a fault that has to be reported,
        except at the end, when a directory that is gone looks just like that. No event may tell us that it is readable
        again, or gone.
        """
        news = not self.peer_is_unreadable and self.phase.state not in {State.Closing, State.Closed}
        self.untrusted_peer_state, self.peer_is_unreadable = None, True
        if not self._peer_lives():
            self._look_pause.reset()
            return
        self._look_pause.fail()
        if news and self._unreadable_rate.take():
            self._complain(PeerProtocolError(self.peer_state_path, None, "a node that this domain may read"))

    def _write_state(self) -> None:
        rewrite(self._store, self.own_path, state=str(int(self.phase.state)))

    def _act(self, action: Action) -> None:
        self._acting = action
        finished = self._perform(action)
        if finished is not None:
            self._events.append(finished)
