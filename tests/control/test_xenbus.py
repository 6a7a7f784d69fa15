# SPDX-License-Identifier: GPL-2.0-or-later
"""The XenBus tables, pair by pair, and a walk through all that two sides can do to each other."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from xen_shadowvq.xenbus import (
    PHASES,
    TABLE,
    Action,
    Event,
    Phase,
    Role,
    State,
    Step,
    peer_event,
    start,
    step,
)

# --- every phase x event ------------------------------------------------------------------------------------
# Columns: the peer is Absent, Unknown, in state 1 to 8; then OFFER_READY CONNECT_DONE SETUP_DONE FAULT DETACH
# REOPEN STOPPED. A cell has the letter of the phase that follows, with ! when resources are to be released on
# the way, * for another action; "." is "stay, do nothing".
COLUMNS = tuple(Event)
PHASE_OF = {
    "p": Phase.PREPARING,
    "o": Phase.OFFERED,
    "n": Phase.CONNECTING,
    "w": Phase.WAITING,
    "u": Phase.SETTING_UP,
    "r": Phase.READY,
    "c": Phase.CONNECTED,
    "s": Phase.STOPPING,
    "a": Phase.STOPPING_ALONE,
    "l": Phase.LINGERING,
    "x": Phase.CLOSED,
    "v": Phase.LEAVING,
    "g": Phase.GONE,
}
#             A  U  1  2  3  4  5  6  7  8  OR CD SD F  D  RE ST
BACK_GRID = """
p             a! a! .  .  .  .  a! a! .  .  o  .  .  s! v! .  .
o             a! a! .  .  n* .  a! a! .  .  .  .  .  s! v! .  .
n             a! a! a! a! .  .  a! a! .  .  .  c  .  s! v! .  .
c             a! a! a! a! .  .  a! a! .  .  .  .  .  s! v! .  .
s             a  a  .  .  .  .  a  a  .  .  .  .  .  .  v  .  l
a             .  .  .  .  .  .  .  .  .  .  .  .  .  .  v  .  x
l             x  x  .  .  .  .  x  x  .  .  .  .  .  .  g* .  .
x             .  .  p* .  .  .  .  .  .  .  .  .  .  .  g* .  .
v             .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  g*
g             .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  .
"""
FRONT_GRID = """
w             a! a! .  u* .  .  s! .  .  .  .  .  .  s! v! .  .
u             a! a! s! .  .  .  s! a! .  .  .  .  r  s! v! .  .
r             a! a! s! .  .  c* s! a! .  .  .  .  .  s! v! .  .
c             a! a! s! s! .  .  s! a! .  .  .  .  .  s! v! .  .
s             a  a  .  .  .  .  .  a  .  .  .  .  .  .  v  .  l
a             .  .  .  .  .  .  .  .  .  .  .  .  .  .  v  .  x
l             x  x  .  .  .  .  .  x  .  .  .  .  .  .  g* .  .
x             .  .  .  .  .  .  .  .  .  .  .  .  .  .  g* w  .
v             .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  g*
g             .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  .  .
"""
STARRED = {
    Phase.CONNECTING: Action.CONNECT,
    Phase.PREPARING: Action.OFFER,
    Phase.SETTING_UP: Action.SETUP,
    Phase.CONNECTED: Action.START,
    Phase.GONE: Action.REMOVE,
}
RELEASE = {Role.BACK: Action.DISCONNECT, Role.FRONT: Action.STOP}


def cells() -> Iterator[tuple[Role, Phase, Event, str]]:
    for role, grid in ((Role.BACK, BACK_GRID), (Role.FRONT, FRONT_GRID)):
        for row in grid.strip().splitlines():
            letter, *marks = row.split()
            for event, mark in zip(COLUMNS, marks, strict=True):
                yield role, PHASE_OF[letter], event, mark


@pytest.mark.parametrize(("role", "own", "event", "mark"), list(cells()))
def test_table(role: Role, own: Phase, event: Event, mark: str) -> None:
    """Each phase meets each event as the grid above says, in actions too."""
    if mark == ".":
        assert step(role, own, event) == Step(own)
        return
    following = PHASE_OF[mark[0]]
    actions: tuple[Action, ...] = ()
    if mark.endswith("!"):
        actions = (RELEASE[role],)
    elif mark.endswith("*"):
        actions = (STARRED[following],)
    assert step(role, own, event) == Step(following, actions)


def test_grid_is_total() -> None:
    """The grid has every phase of each role with every event once, and the table names no others."""
    seen = [(role, own, event) for role, own, event, _ in cells()]
    wanted = [(role, own, event) for role in Role for own in PHASES[role] for event in Event]
    assert len(seen) == len(set(seen))
    assert set(seen) == set(wanted)
    assert {(role, *pair) for role in Role for pair in TABLE[role]} <= set(wanted)


def test_a_phase_of_the_other_role_is_a_bug() -> None:
    """A side cannot be moved by the other role's table unnoticed."""
    with pytest.raises(ValueError, match="BACK has no phase READY"):
        step(Role.BACK, Phase.READY, Event.FAULT)


def test_peer_event() -> None:
    """Whatever stands in a peer's state node becomes an event; what is no state counts as Unknown."""
    assert peer_event(None) is Event.PEER_ABSENT
    events = [peer_event(str(state.value)) for state in State]
    assert events == [
        Event.PEER_UNKNOWN,
        Event.PEER_INITIALISING,
        Event.PEER_INIT_WAIT,
        Event.PEER_INITIALISED,
        Event.PEER_CONNECTED,
        Event.PEER_CLOSING,
        Event.PEER_CLOSED,
        Event.PEER_RECONFIGURING,
        Event.PEER_RECONFIGURED,
    ]
    for untrusted in ("", "9", "+4", " 4", "4\n", "04", "-1", "\u0664", "4" * 5000):
        assert peer_event(untrusted) is Event.PEER_UNKNOWN


@pytest.mark.parametrize(
    ("role", "stored", "expected"),
    [
        (Role.BACK, "1", Step(Phase.PREPARING, (Action.OFFER,))),
        (Role.BACK, "2", Step(Phase.PREPARING, (Action.OFFER,))),
        (Role.BACK, "4", Step(Phase.PREPARING, (Action.OFFER,))),
        (Role.BACK, None, Step(Phase.PREPARING, (Action.OFFER,))),
        (Role.BACK, "5", Step(Phase.LINGERING)),
        (Role.BACK, "6", Step(Phase.CLOSED)),
        (Role.FRONT, "1", Step(Phase.WAITING)),
        (Role.FRONT, "3", Step(Phase.LINGERING)),
        (Role.FRONT, "4", Step(Phase.LINGERING)),
        (Role.FRONT, "junk", Step(Phase.LINGERING)),
        (Role.FRONT, "5", Step(Phase.LINGERING)),
        (Role.FRONT, "6", Step(Phase.CLOSED)),
    ],
)
def test_start(role: Role, stored: str | None, expected: Step) -> None:
    """A new process takes up a pair by the state that the last one left behind."""
    assert start(role, stored) == expected


# --- two sides against each other ---------------------------------------------------------------------------

COMPLETION = {
    Phase.PREPARING: Event.OFFER_READY,
    Phase.CONNECTING: Event.CONNECT_DONE,
    Phase.SETTING_UP: Event.SETUP_DONE,
    Phase.STOPPING: Event.STOPPED,
    Phase.STOPPING_ALONE: Event.STOPPED,
    Phase.LEAVING: Event.STOPPED,
}


@dataclass(frozen=True)
class World:
    """Both sides, and the facts that decide whether a connection is a true one."""

    back: Phase = Phase.PREPARING
    front: Phase = Phase.WAITING
    current: bool = False  # BACK's last CONNECT took up the rings of FRONT's last SETUP
    started: bool = False  # FRONT's last START came after BACK's last CONNECT
    removed: bool = False  # the toolstack removed both directories

    def feed(self, role: Role, event: Event) -> World:
        """One side takes an event."""
        if role is Role.BACK:
            taken = step(role, self.back, event)
            connects = Action.CONNECT in taken.actions
            return replace(
                self,
                back=taken.next,
                current=self.current or connects,
                started=self.started and not connects,
            )
        taken = step(role, self.front, event)
        return replace(
            self,
            front=taken.next,
            current=self.current and Action.SETUP not in taken.actions,
            started=self.started or Action.START in taken.actions,
        )

    def look(self, role: Role) -> World:
        """One side sees the other's latest state; what that was in between is lost."""
        other = self.front if role is Role.BACK else self.back
        return self.feed(role, Event.PEER_ABSENT if self.removed else peer_event(str(other.state.value)))

    def progress(self) -> Iterator[World]:
        """What happens by itself: looks, completions, and the removal of a detached device."""
        yield self.look(Role.BACK)
        yield self.look(Role.FRONT)
        if self.back in COMPLETION:
            yield self.feed(Role.BACK, COMPLETION[self.back])
        if self.front in COMPLETION:
            yield self.feed(Role.FRONT, COMPLETION[self.front])
        if self.back is Phase.GONE:
            yield replace(self, removed=True)

    def mischief(self, resets: bool) -> Iterator[World]:
        """What somebody does: faults, detaches, reopens, processes that die and come back."""
        for role, event in itertools.product(Role, (Event.FAULT, Event.DETACH, Event.REOPEN)):
            yield self.feed(role, event)
        if not self.removed and self.back is not Phase.GONE:
            yield replace(self, back=start(Role.BACK, str(self.back.state.value)).next)
        if not self.removed and self.front is not Phase.GONE:
            yield replace(self, front=start(Role.FRONT, str(self.front.state.value)).next)
            if resets:
                yield replace(self, front=Phase.WAITING)


def reachable(resets: bool) -> set[World]:
    worlds = {World()}
    queue = deque(worlds)
    while queue:
        world = queue.popleft()
        for following in (*world.progress(), *world.mischief(resets)):
            if following not in worlds:
                worlds.add(following)
                queue.append(following)
    return worlds


def rests_from(worlds: set[World]) -> dict[World, set[World]]:
    """For each world, where it can come to rest by itself; fails if it can go round forever."""
    rests: dict[World, set[World]] = {}
    open_worlds: set[World] = set()

    def visit(world: World) -> set[World]:
        assert world not in open_worlds, f"goes round for ever: {world}"
        if world not in rests:
            open_worlds.add(world)
            onward = {following for following in world.progress() if following != world}
            rests[world] = set().union(*map(visit, onward)) if onward else {world}
            open_worlds.discard(world)
        return rests[world]

    for world in worlds:
        visit(world)
    return rests


@pytest.mark.parametrize("resets", [False, True])
def test_every_pair_converges(resets: bool) -> None:
    """
    From everything that faults, detaches, deaths and (with resets) a frontend that falls back to Initialising
    without a word can lead to, any order of looks ends, and ends with both sides connected or both closed.
    """
    worlds = reachable(resets)
    assert len(worlds) > 200
    for rests in rests_from(worlds).values():
        for rest in rests:
            states = {rest.back.state, rest.front.state}
            assert states in ({State.Connected}, {State.Closed}), rest


def test_connects_from_the_start() -> None:
    """Two sides that nobody disturbs connect in every order of events."""
    rests = rests_from(reachable(False))
    assert {(rest.back, rest.front) for rest in rests[World()]} == {(Phase.CONNECTED, Phase.CONNECTED)}


def test_reconnects_after_a_close() -> None:
    """When both are closed and the frontend opens again, they connect in every order of events."""
    rests = rests_from(reachable(False))
    closed = [world for world in rests if (world.back, world.front) == (Phase.CLOSED, Phase.CLOSED)]
    assert closed
    for world in closed:
        opened = world.feed(Role.FRONT, Event.REOPEN)
        assert {(rest.back, rest.front) for rest in rests[opened]} == {(Phase.CONNECTED, Phase.CONNECTED)}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("event", [Event.FAULT, Event.DETACH])
def test_either_side_can_close(role: Role, event: Event) -> None:
    """A connected pair in which one side gives up ends with both closed, in every order of events."""
    rests = rests_from(reachable(False))
    connected = World(Phase.CONNECTED, Phase.CONNECTED, current=True, started=True)
    for rest in rests[connected.feed(role, event)]:
        assert (rest.back.state, rest.front.state) == (State.Closed, State.Closed)


def test_detach_waits_for_nobody() -> None:
    """A detached side is gone after releasing its resources, whatever the other does or does not do."""
    for role in Role:
        for phase in PHASES[role] - {Phase.GONE}:
            taken = step(role, phase, Event.DETACH)
            if taken.next is Phase.LEAVING:
                taken = step(role, taken.next, Event.STOPPED)
            assert taken == Step(Phase.GONE, (Action.REMOVE,))


def test_a_connection_is_never_a_mix_of_two() -> None:
    """
    Whenever both are connected, BACK took up the rings that FRONT made last and FRONT started after that, even
    when either process died and came back with nobody noticing.
    """
    for world in reachable(resets=False):
        if (world.back, world.front) == (Phase.CONNECTED, Phase.CONNECTED):
            assert world.current, world
            assert world.started, world


def test_a_release_is_asked_for_exactly_when_something_may_be_held() -> None:
    """Every way out of a live phase other than onward asks once for the release of resources."""
    for role in Role:
        live = PHASES[role] - {
            Phase.STOPPING,
            Phase.STOPPING_ALONE,
            Phase.LINGERING,
            Phase.CLOSED,
            Phase.LEAVING,
            Phase.GONE,
        }
        for own, event in itertools.product(PHASES[role], Event):
            taken = step(role, own, event)
            releases = RELEASE[role] in taken.actions
            ends = taken.next in (Phase.STOPPING, Phase.STOPPING_ALONE, Phase.LEAVING)
            assert releases == (own in live and ends), (role, own, event)


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.OFFERED])
def test_a_failed_offer_is_not_repeated_by_itself(phase: Phase) -> None:
    """While FRONT only waits in Initialising, a BACK whose offer failed stays in Closing until FRONT has seen it."""
    step_taken = step(Role.BACK, phase, Event.FAULT)
    for event in (Event.PEER_INITIALISING, Event.STOPPED, Event.PEER_INITIALISING, Event.PEER_INITIALISING):
        step_taken = step(Role.BACK, step_taken.next, event)
        assert step_taken.next.state is State.Closing
        assert Action.OFFER not in step_taken.actions
    assert step(Role.BACK, step_taken.next, Event.PEER_CLOSING) == Step(Phase.CLOSED)
