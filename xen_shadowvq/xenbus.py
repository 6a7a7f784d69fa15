# SPDX-License-Identifier: GPL-2.0-or-later
"""
The XenBus state machine of both roles, as a pure table: no XenStore, no clock, no memory of its own.

BACK offers a device (the mediator on leg 1, the backend on leg 2); FRONT uses one (the mediator on leg 2,
the user-space driver on leg 1). A XenBus state alone cannot say whether, say, a side that is Closing has
released its resources yet, so the machine runs on phases; each phase has the one XenBus state that stands
in XenStore meanwhile.

What the caller owes the machine:

* After a step, write `next.state` to XenStore if it changed, then carry out the actions in their order.
* Feed the peer's state whenever its watch fires, and once more after every step that changed the phase: a
  watch tells that something changed, not what was missed. Only the latest state counts; the table does not
  need the rest.
* An action is finished by its event: OFFER by OFFER_READY, CONNECT by CONNECT_DONE, SETUP by SETUP_DONE (or
  any of them by FAULT), DISCONNECT and STOP by STOPPED. DISCONNECT and STOP also cancel what is under way:
  after STOPPED no event of an earlier action may follow.

Three rules make a pair converge, and never connect across a restart that one side did not see. BACK connects only
to a FRONT in Initialised: one that is Connected already has rings in the middle of their life. FRONT leaves Closing
only when BACK is Closed or gone, so that what it sees after a reopen is a new offer. BACK leaves Closing only when
FRONT is Closing, Closed or gone, so that a fault does not make it offer, and fail, again and again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from xenstore_schema.spec import State

__all__ = [
    "PHASES",
    "TABLE",
    "Action",
    "Event",
    "Phase",
    "Role",
    "State",
    "Step",
    "peer_event",
    "start",
    "step",
]


class Role(enum.Enum):
    """Which half of a pair this side plays."""

    BACK = "back"
    FRONT = "front"


class Phase(enum.Enum):
    """Where a side stands. The comment says which role has the phase; no comment: both."""

    PREPARING = "preparing"  # BACK: gathering what it will offer
    OFFERED = "offered"  # BACK: the offer stands in XenStore
    CONNECTING = "connecting"  # BACK: taking up what the peer set up
    WAITING = "waiting"  # FRONT: for an offer
    SETTING_UP = "setting-up"  # FRONT: making rings for the offer
    READY = "ready"  # FRONT: the rings stand in XenStore
    CONNECTED = "connected"
    STOPPING = "stopping"  # releasing resources, and the peer is not done yet
    STOPPING_ALONE = "stopping-alone"  # releasing resources, and the peer is done
    LINGERING = "lingering"  # released, but the peer is not done yet
    CLOSED = "closed"  # a new round may begin
    LEAVING = "leaving"  # releasing resources for good; the peer does not matter any more
    GONE = "gone"  # the end

    @property
    def state(self) -> State:
        """The XenBus state that stands in XenStore during this phase."""
        return _STATE[self]


_STATE: Mapping[Phase, State] = {
    Phase.PREPARING: State.Initialising,
    Phase.OFFERED: State.InitWait,
    Phase.CONNECTING: State.InitWait,
    Phase.WAITING: State.Initialising,
    Phase.SETTING_UP: State.Initialising,
    Phase.READY: State.Initialised,
    Phase.CONNECTED: State.Connected,
    Phase.STOPPING: State.Closing,
    Phase.STOPPING_ALONE: State.Closing,
    Phase.LINGERING: State.Closing,
    Phase.CLOSED: State.Closed,
    Phase.LEAVING: State.Closing,
    Phase.GONE: State.Closed,
}

_ENDING = {Phase.STOPPING, Phase.STOPPING_ALONE, Phase.LINGERING, Phase.CLOSED, Phase.LEAVING, Phase.GONE}
PHASES: Mapping[Role, frozenset[Phase]] = {
    Role.BACK: frozenset({Phase.PREPARING, Phase.OFFERED, Phase.CONNECTING, Phase.CONNECTED} | _ENDING),
    Role.FRONT: frozenset({Phase.WAITING, Phase.SETTING_UP, Phase.READY, Phase.CONNECTED} | _ENDING),
}


class Event(enum.Enum):
    """What can happen to a side: the peer's state was seen, or something of its own came to pass."""

    PEER_ABSENT = "peer-absent"  # there is no such node
    PEER_UNKNOWN = "peer-unknown"  # 0, or text that is no state
    PEER_INITIALISING = "peer-initialising"
    PEER_INIT_WAIT = "peer-init-wait"
    PEER_INITIALISED = "peer-initialised"
    PEER_CONNECTED = "peer-connected"
    PEER_CLOSING = "peer-closing"
    PEER_CLOSED = "peer-closed"
    PEER_RECONFIGURING = "peer-reconfiguring"
    PEER_RECONFIGURED = "peer-reconfigured"
    OFFER_READY = "offer-ready"  # BACK: the offer's nodes are written
    CONNECT_DONE = "connect-done"  # BACK: the peer's rings are in use
    SETUP_DONE = "setup-done"  # FRONT: the rings' nodes are written
    FAULT = "fault"  # give up this connection: an error, or our own wish to close
    DETACH = "detach"  # give up the device: the operator took it away
    REOPEN = "reopen"  # FRONT: begin a new round after Closed
    STOPPED = "stopped"  # every resource of the connection is released


class Action(enum.Enum):
    """What the caller is to do."""

    OFFER = "offer"  # write the offer's nodes, then OFFER_READY
    CONNECT = "connect"  # read the peer's nodes once and take up its rings, then CONNECT_DONE
    SETUP = "setup"  # read the offer once, make rings, write their nodes, then SETUP_DONE
    START = "start"  # FRONT: the connection stands, requests may flow
    DISCONNECT = "disconnect"  # BACK: cancel what is under way, release all, then STOPPED
    STOP = "stop"  # FRONT: the same
    REMOVE = "remove"  # forget the device


@dataclass(frozen=True)
class Step:
    """The phase that follows and what is to be done on the way there."""

    next: Phase
    actions: tuple[Action, ...] = ()


_PEER_EVENT: Mapping[str | None, Event] = {
    None: Event.PEER_ABSENT,
    "1": Event.PEER_INITIALISING,
    "2": Event.PEER_INIT_WAIT,
    "3": Event.PEER_INITIALISED,
    "4": Event.PEER_CONNECTED,
    "5": Event.PEER_CLOSING,
    "6": Event.PEER_CLOSED,
    "7": Event.PEER_RECONFIGURING,
    "8": Event.PEER_RECONFIGURED,
}


def peer_event(untrusted_state: str | None) -> Event:
    """The event for what stands in the peer's `state` node, None when there is none. Never fails."""
    return _PEER_EVENT.get(untrusted_state, Event.PEER_UNKNOWN)


def step(role: Role, own: Phase, event: Event) -> Step:
    """
    What follows from an event. The table is total: a pair that it does not list means "stay, do nothing",
    which is right for news that change nothing (a watch fired twice) and for events that came too late.
    """
    if own not in PHASES[role]:
        raise ValueError(f"{role.name} has no phase {own.name}")
    return TABLE[role].get((own, event), Step(own))


def start(role: Role, untrusted_state: str | None) -> Step:
    """
    Where a new process begins that holds no resources and finds `untrusted_state` in its own `state` node.

    A new BACK offers afresh whatever the last one did, except that it finishes a close. A new FRONT first closes what
    the last one had set up: else BACK might connect to rings that are gone.
    """
    event = peer_event(untrusted_state)
    if event is Event.PEER_CLOSING:
        return Step(Phase.LINGERING)
    if event is Event.PEER_CLOSED:
        return Step(Phase.CLOSED)
    if role is Role.BACK:
        return Step(Phase.PREPARING, (Action.OFFER,))
    if event is Event.PEER_INITIALISING:
        return Step(Phase.WAITING)
    return Step(Phase.LINGERING)


# Steps that occur many times.
_DISCONNECT = Step(Phase.STOPPING, (Action.DISCONNECT,))
_DISCONNECT_ALONE = Step(Phase.STOPPING_ALONE, (Action.DISCONNECT,))
_BACK_LEAVE = Step(Phase.LEAVING, (Action.DISCONNECT,))
_STOP = Step(Phase.STOPPING, (Action.STOP,))
_STOP_ALONE = Step(Phase.STOPPING_ALONE, (Action.STOP,))
_FRONT_LEAVE = Step(Phase.LEAVING, (Action.STOP,))
_REMOVE = Step(Phase.GONE, (Action.REMOVE,))

_BACK: Mapping[tuple[Phase, Event], Step] = {
    (Phase.PREPARING, Event.OFFER_READY): Step(Phase.OFFERED),
    (Phase.PREPARING, Event.PEER_CLOSING): _DISCONNECT_ALONE,
    (Phase.PREPARING, Event.PEER_CLOSED): _DISCONNECT_ALONE,
    (Phase.PREPARING, Event.PEER_ABSENT): _DISCONNECT_ALONE,
    (Phase.PREPARING, Event.PEER_UNKNOWN): _DISCONNECT_ALONE,
    (Phase.PREPARING, Event.FAULT): _DISCONNECT,
    (Phase.PREPARING, Event.DETACH): _BACK_LEAVE,
    # Not PEER_CONNECTED: that is left over from before this offer; its rings are in the middle of their life.
    (Phase.OFFERED, Event.PEER_INITIALISED): Step(Phase.CONNECTING, (Action.CONNECT,)),
    (Phase.OFFERED, Event.PEER_CLOSING): _DISCONNECT_ALONE,
    (Phase.OFFERED, Event.PEER_CLOSED): _DISCONNECT_ALONE,
    (Phase.OFFERED, Event.PEER_ABSENT): _DISCONNECT_ALONE,
    (Phase.OFFERED, Event.PEER_UNKNOWN): _DISCONNECT_ALONE,
    (Phase.OFFERED, Event.FAULT): _DISCONNECT,
    (Phase.OFFERED, Event.DETACH): _BACK_LEAVE,
    (Phase.CONNECTING, Event.CONNECT_DONE): Step(Phase.CONNECTED),
    (Phase.CONNECTING, Event.PEER_INITIALISING): _DISCONNECT_ALONE,
    (Phase.CONNECTING, Event.PEER_INIT_WAIT): _DISCONNECT_ALONE,
    (Phase.CONNECTING, Event.PEER_CLOSING): _DISCONNECT_ALONE,
    (Phase.CONNECTING, Event.PEER_CLOSED): _DISCONNECT_ALONE,
    (Phase.CONNECTING, Event.PEER_ABSENT): _DISCONNECT_ALONE,
    (Phase.CONNECTING, Event.PEER_UNKNOWN): _DISCONNECT_ALONE,
    (Phase.CONNECTING, Event.FAULT): _DISCONNECT,
    (Phase.CONNECTING, Event.DETACH): _BACK_LEAVE,
    (Phase.CONNECTED, Event.PEER_INITIALISING): _DISCONNECT_ALONE,
    (Phase.CONNECTED, Event.PEER_INIT_WAIT): _DISCONNECT_ALONE,
    (Phase.CONNECTED, Event.PEER_CLOSING): _DISCONNECT_ALONE,
    (Phase.CONNECTED, Event.PEER_CLOSED): _DISCONNECT_ALONE,
    (Phase.CONNECTED, Event.PEER_ABSENT): _DISCONNECT_ALONE,
    (Phase.CONNECTED, Event.PEER_UNKNOWN): _DISCONNECT_ALONE,
    (Phase.CONNECTED, Event.FAULT): _DISCONNECT,
    (Phase.CONNECTED, Event.DETACH): _BACK_LEAVE,
    # Not PEER_INITIALISING: a peer that waits for the offer must see Closing, or it would wait forever.
    (Phase.STOPPING, Event.PEER_CLOSING): Step(Phase.STOPPING_ALONE),
    (Phase.STOPPING, Event.PEER_CLOSED): Step(Phase.STOPPING_ALONE),
    (Phase.STOPPING, Event.PEER_ABSENT): Step(Phase.STOPPING_ALONE),
    (Phase.STOPPING, Event.PEER_UNKNOWN): Step(Phase.STOPPING_ALONE),
    (Phase.STOPPING, Event.STOPPED): Step(Phase.LINGERING),
    (Phase.STOPPING, Event.DETACH): Step(Phase.LEAVING),
    (Phase.STOPPING_ALONE, Event.STOPPED): Step(Phase.CLOSED),
    (Phase.STOPPING_ALONE, Event.DETACH): Step(Phase.LEAVING),
    (Phase.LINGERING, Event.PEER_CLOSING): Step(Phase.CLOSED),
    (Phase.LINGERING, Event.PEER_CLOSED): Step(Phase.CLOSED),
    (Phase.LINGERING, Event.PEER_ABSENT): Step(Phase.CLOSED),
    (Phase.LINGERING, Event.PEER_UNKNOWN): Step(Phase.CLOSED),
    (Phase.LINGERING, Event.DETACH): _REMOVE,
    (Phase.CLOSED, Event.PEER_INITIALISING): Step(Phase.PREPARING, (Action.OFFER,)),
    (Phase.CLOSED, Event.DETACH): _REMOVE,
    (Phase.LEAVING, Event.STOPPED): _REMOVE,
}

_FRONT: Mapping[tuple[Phase, Event], Step] = {
    (Phase.WAITING, Event.PEER_INIT_WAIT): Step(Phase.SETTING_UP, (Action.SETUP,)),
    # Not PEER_CLOSED: after a reopen that is what stands there until BACK offers again.
    (Phase.WAITING, Event.PEER_CLOSING): _STOP,
    (Phase.WAITING, Event.PEER_ABSENT): _STOP_ALONE,
    (Phase.WAITING, Event.PEER_UNKNOWN): _STOP_ALONE,
    (Phase.WAITING, Event.FAULT): _STOP,
    (Phase.WAITING, Event.DETACH): _FRONT_LEAVE,
    (Phase.SETTING_UP, Event.SETUP_DONE): Step(Phase.READY),
    (Phase.SETTING_UP, Event.PEER_INITIALISING): _STOP,
    (Phase.SETTING_UP, Event.PEER_CLOSING): _STOP,
    (Phase.SETTING_UP, Event.PEER_CLOSED): _STOP_ALONE,
    (Phase.SETTING_UP, Event.PEER_ABSENT): _STOP_ALONE,
    (Phase.SETTING_UP, Event.PEER_UNKNOWN): _STOP_ALONE,
    (Phase.SETTING_UP, Event.FAULT): _STOP,
    (Phase.SETTING_UP, Event.DETACH): _FRONT_LEAVE,
    (Phase.READY, Event.PEER_CONNECTED): Step(Phase.CONNECTED, (Action.START,)),
    (Phase.READY, Event.PEER_INITIALISING): _STOP,
    (Phase.READY, Event.PEER_CLOSING): _STOP,
    (Phase.READY, Event.PEER_CLOSED): _STOP_ALONE,
    (Phase.READY, Event.PEER_ABSENT): _STOP_ALONE,
    (Phase.READY, Event.PEER_UNKNOWN): _STOP_ALONE,
    (Phase.READY, Event.FAULT): _STOP,
    (Phase.READY, Event.DETACH): _FRONT_LEAVE,
    (Phase.CONNECTED, Event.PEER_INITIALISING): _STOP,
    (Phase.CONNECTED, Event.PEER_INIT_WAIT): _STOP,
    (Phase.CONNECTED, Event.PEER_CLOSING): _STOP,
    (Phase.CONNECTED, Event.PEER_CLOSED): _STOP_ALONE,
    (Phase.CONNECTED, Event.PEER_ABSENT): _STOP_ALONE,
    (Phase.CONNECTED, Event.PEER_UNKNOWN): _STOP_ALONE,
    (Phase.CONNECTED, Event.FAULT): _STOP,
    (Phase.CONNECTED, Event.DETACH): _FRONT_LEAVE,
    # Not PEER_CLOSING: a reopen would find BACK still closing, and close again.
    (Phase.STOPPING, Event.PEER_CLOSED): Step(Phase.STOPPING_ALONE),
    (Phase.STOPPING, Event.PEER_ABSENT): Step(Phase.STOPPING_ALONE),
    (Phase.STOPPING, Event.PEER_UNKNOWN): Step(Phase.STOPPING_ALONE),
    (Phase.STOPPING, Event.STOPPED): Step(Phase.LINGERING),
    (Phase.STOPPING, Event.DETACH): Step(Phase.LEAVING),
    (Phase.STOPPING_ALONE, Event.STOPPED): Step(Phase.CLOSED),
    (Phase.STOPPING_ALONE, Event.DETACH): Step(Phase.LEAVING),
    (Phase.LINGERING, Event.PEER_CLOSED): Step(Phase.CLOSED),
    (Phase.LINGERING, Event.PEER_ABSENT): Step(Phase.CLOSED),
    (Phase.LINGERING, Event.PEER_UNKNOWN): Step(Phase.CLOSED),
    (Phase.LINGERING, Event.DETACH): _REMOVE,
    (Phase.CLOSED, Event.REOPEN): Step(Phase.WAITING),
    (Phase.CLOSED, Event.DETACH): _REMOVE,
    (Phase.LEAVING, Event.STOPPED): _REMOVE,
}

TABLE: Mapping[Role, Mapping[tuple[Phase, Event], Step]] = {Role.BACK: _BACK, Role.FRONT: _FRONT}
