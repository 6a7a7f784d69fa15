# SPDX-License-Identifier: GPL-2.0-or-later
"""
One device in the mediator: two legs, and one connection at a time between them.

It begins with what earlier mediators left in the frontend's grant table. Then comes the backend's offer, which is
passed on to the frontend (offering.py). The frontend's rings become the backend's shadow rings (connection.py), and
once the backend has taken those up, requests flow. Closing goes the other way round: teardown.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from xen_shadowvq.answer import Answer
from xen_shadowvq.config import Config
from xen_shadowvq.connection import Ends, Remains
from xen_shadowvq.connection_slot import ConnectionSlot
from xen_shadowvq.engine import Worker
from xen_shadowvq.errors import (
    XENSTORE_TROUBLE,
    ConfigError,
    DeviceBroken,
    HypervisorError,
    PeerProtocolError,
    ShadowVQError,
)
from xen_shadowvq.guests import GuestTable
from xen_shadowvq.held import Leftovers
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.life import Life
from xen_shadowvq.log import get_logger
from xen_shadowvq.offering import Offering
from xen_shadowvq.pace import Rate, Rounds, earliest
from xen_shadowvq.service import touches
from xen_shadowvq.tracing import Tracing
from xen_shadowvq.trouble import Trouble
from xen_shadowvq.xenbus import Action, Event, Phase
from xen_shadowvq.xenbus_back import XenBusBack
from xen_shadowvq.xenbus_front import Attachment, XenBusFront, read_own
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import State, nodes

_OF_A_PEER = PeerProtocolError, DeviceBroken, HypervisorError, ConfigError  # at fault: a peer, or who let it in

# How often a peer can make us write to XenStore, the log or the other peer: that many at once, then that many a second.
ROUNDS = 10, 2.0
PAUSES_S = 0.05, 10.0  # before the next round, if XenStore had no room for the last
RING_RESETS = 20, 10.0


@dataclass(frozen=True)
class Context:
    """What all devices of a mediator share."""

    store: XenStore
    hypervisor: Hypervisor
    config: Config
    guests: GuestTable
    workers: tuple[Worker, ...]
    domid: int


class ShadowDevice:
    """
    See the module. `look` takes up whatever changed in XenStore; `tick` moves what is due.

    A peer's mistake ends in this device's own error, and what XenStore refuses is tried again: only XenStoreGone is
    raised.
    """

    def __init__(self, context: Context, frontend_domid: int, device_id: int) -> None:
        self._context = context
        store = context.store
        self._path = path = nodes.virtio_back_path(mediator=context.domid, frontend=frontend_domid, device=device_id)
        attachment = Attachment.read(store, path)
        leg2_path = nodes.svq_front_path(mediator=context.domid, handle=attachment.handle)
        backend_domid = read_own(store, leg2_path, nodes.SvqFront.BACKEND_ID)
        front_path = nodes.virtio_front_path(frontend=frontend_domid, device=device_id)
        back_path = nodes.svq_back_path(backend=backend_domid, mediator=context.domid, handle=attachment.handle)
        self._ends = _read_ends(context, attachment, frontend_domid, device_id, backend_domid)
        self._log = get_logger(domid=frontend_domid, device=device_id, backend=backend_domid)
        self._trouble = Trouble(store, path, self._log, (frontend_domid, device_id))

        frontend, backend, broken = Life(store, frontend_domid), Life(store, backend_domid), self._trouble.broken
        one, two = self._rounds = Rounds(*ROUNDS, *PAUSES_S), Rate(*ROUNDS)
        self.front = XenBusFront(
            store, (path, front_path), frontend, self._on_front, self._front_in_vain, one, self._log
        )
        self.back = XenBusBack(store, (leg2_path, back_path), backend, self._on_back, broken, two)
        self._offering = Offering(
            self.front, self.back, context.guests, self._ends, context.config.limits, attachment.queues, self._trouble
        )
        self._stats = Answer(store, path, nodes.VirtioBack.STATS_REQUEST, nodes.VirtioBack.STATS)
        self._tracing = Tracing(store, path)
        self._reset_rate = Rate(*RING_RESETS)
        self._slot = ConnectionSlot(
            context.hypervisor, context.guests, context.workers, self._ends, self._reset_rate, self._tracing, self._log
        )
        leftovers = Leftovers(store, path, context.hypervisor, frontend_domid, attachment.mark, backend)
        self._remains = Remains(self.front, self.back, leftovers)
        self._begun = False
        self._removing = self._removed = False

    # ---- what the service calls ------------------------------------------------------------------------------------

    @property
    def watched_roots(self) -> tuple[str, ...]:
        """The directories of the frontend's devices, and of this mediator's devices at the backend."""
        back = nodes.svq_back_root(backend=self._ends.backend_domid)
        return (nodes.virtio_front_root(frontend=self._ends.frontend_domid), f"{back}/{self._context.domid}")

    def concerns(self, path: str) -> bool:
        """State changes, ring resets, a changed configuration space, and what the toolstack asks."""
        return touches(
            path,
            {
                self.front.peer_path: ("state", "queue-"),
                self.back.peer_path: ("state", "config-generation"),
                self._path: ("online", "stats-request", "trace-request"),
            },
        )

    @property
    def gone(self) -> bool:
        """Nothing is left of it: forget it."""
        return self._removed

    @property
    def due(self) -> float | None:
        """When to call `tick`; None: only news can move it."""
        return earliest((self._look_due, self._slot.due, 0.0 if self._can_reopen else None))

    @property
    def _look_due(self) -> float | None:
        rates = self._offering.rate.due, self._stats.rate.due, self._tracing.due
        return earliest((self._trouble.due, self.front.due, self.back.due, *rates))

    def begin(self) -> None:
        """Takes back what earlier mediators left, then takes up both legs as it finds them."""
        self.look()

    def look(self, *, domain_died: bool = False) -> None:
        """Takes up what changed in XenStore."""
        self._trouble.begin()
        if self._begun or self._take_up():
            self._offering.rate.forget()
            self._guard(self._look_at_the_toolstack)
            self._guard(self._look_at_the_peers)
            if self.front.phase in {Phase.OFFERED, Phase.CONNECTED}:
                self._guard(self._offering.relay_config)
            if self.front.phase is Phase.CONNECTED:
                self._guard(self._slot.look)
        else:
            self._guard(self._leave_if_unwanted)
        self._guard(partial(self._stats.look, self.status))
        self._guard(self._tracing.look)
        self._trouble.mention(self.front.trouble or self.back.trouble)
        self._trouble.end()
        self._move_closing(domain_died=domain_died)

    def check_fault(self) -> None:
        """Closes the device if a peer broke it."""
        if fault := self._slot.fault():
            self._fail(fault)

    def tick(self) -> None:
        """Moves on what is due."""
        if self._look_due is not None and time.monotonic() >= self._look_due:
            self.look()
        self._move_closing()
        self._guard(self._slot.move)
        if self._can_reopen:
            self.back.feed(Event.REOPEN)

    def wind_down(self) -> bool:
        """The service is ending, and requests in flight may still complete. True: none of them could any more."""
        return self._slot.is_idle()

    def release(self) -> None:
        """
        Releases everything at once, without the peers. Pages that the backend keeps are published for the process that
        comes after this one; leg 1 then stays Closing.
        """
        try:
            if held := self._slot.end_at_once():
                self.front.stay_closing()
                self._log.warning("pages_held_at_exit", pages=held)
        finally:
            self._slot.release()

    def status(self) -> dict[str, object]:
        """What `ctl status` shows."""
        held = self._slot.held_pages
        rates = self._offering.rate, self._reset_rate, self._stats.rate
        live = self._context.hypervisor.counters()
        return {
            "frontend": self._ends.frontend_domid,
            "device": self._ends.device_id,
            "backend": self._ends.backend_domid,
            "state": self.front.phase.value,
            "backend_state": self.back.phase.value,
            "placement": self._ends.policy.placement,
            "held_pages": held,
            "rate_limited": sum(rate.waits for rate in (*self._rounds, *rates)),
            **self._slot.status(),
            **{f"mediator_{name}": count for name, count in live.items()},
        }

    # ---- the beginning ---------------------------------------------------------------------------------------------

    def _take_up(self) -> bool:
        """Writes no state before it is known what earlier mediators left. False: it is not known yet."""
        try:
            ended = self._remains.end_at_once() == 0
        except HypervisorError as error:
            if self.front.peer.goes_on():
                self._trouble.not_begun(error)
                return False
            ended = True
        except XENSTORE_TROUBLE as error:
            self._trouble.waits(error)
            return False
        if self._remains.freed:
            self._log.warning("stale_grants_ended", ended=self._remains.freed)
        if not ended:
            self._slot.take(self._remains)
        self._begun = True
        self.back.begin()
        self.front.begin(releasing=not ended)
        return True

    def _leave_if_unwanted(self) -> None:
        """
        We cannot say that a device is closed which we could not take up. But it may be removed: dom0 then sees to it
        that nothing is granted any more, before it tells the guest.
        """
        if self._begun or not self.front.unwanted:
            return
        said = nodes.VirtioBack.HELD_PAGES.read(self._context.store.read, self._path)
        if not said or not self.back.peer.goes_on():  # no entry may account for these pages: dom0 would not see them
            self._remove()

    # ---- news ------------------------------------------------------------------------------------------------------

    def _look_at_the_toolstack(self) -> None:
        if self.front.unwanted:
            self._leave()

    def _look_at_the_peers(self) -> None:
        self.back.look()
        self.front.look()
        if self.front.phase is Phase.CLOSED and self.front.peer_has_left:
            self._leave()

    def _leave(self) -> None:
        self._removing = True
        self.front.feed(Event.DETACH)

    # ---- the leg to the frontend: we offer -------------------------------------------------------------------------

    def _on_front(self, action: Action) -> Event | None:
        match action:
            case Action.OFFER:
                return Event.OFFER_READY if self._offering.want() else None
            case Action.CONNECT:
                return self._attempt(self._connect)
            case Action.DISCONNECT:
                if wrong := self.front.wrong_state():
                    self._trouble.broken(wrong)
                return self._disconnect()
            case Action.REMOVE:
                self.back.feed(Event.DETACH)
                self._remove()
        return None

    def _connect(self) -> None:
        """Makes shadow rings of the frontend's rings; CONNECT_DONE comes once the backend has taken those up."""
        if not self._slot.is_empty and self.back.phase is not Phase.SETTING_UP:
            return  # an earlier attempt, which XenStore interrupted, got this far
        self._slot.connect(self.front, self.back, *self._offering.accepted())
        self.back.feed(Event.SETUP_DONE)

    def _disconnect(self) -> Event | None:
        """STOPPED comes when the connection is over; at once if there is none."""
        self._offering.unwant()
        if self._slot.is_empty:
            return Event.STOPPED
        if not self._slot.is_closing:
            self._slot.close(drain=self.front.peer_looks_alive and self.back.phase is Phase.CONNECTED)
        return None

    # ---- the leg to the backend: we use what it offers -------------------------------------------------------------

    def _on_back(self, action: Action) -> Event | None:
        match action:
            case Action.SETUP:
                return self._attempt(self._take_offer)
            case Action.START:
                self._start()
            case Action.STOP:
                self._pass_on_reason()
                self._offering.drop()
                self.front.feed(Event.FAULT)  # the backend closed, or left: leg 1 follows
                return None if self._slot.waits_for_back else Event.STOPPED
            case Action.REMOVE:
                pass  # leg 1 removes both directories
        return None

    def _take_offer(self) -> None:
        if self._offering.take():
            self.front.feed(Event.OFFER_READY)

    def _start(self) -> None:
        if self._slot.start():
            self._rounds[0].pause.reset()
            self.front.feed(Event.CONNECT_DONE)

    def _pass_on_reason(self) -> None:
        """
        Passes on why the backend closes, if it says so: the frontend sees nothing of leg 2, and the next offer there
        clears the reason. If leg 1 is closing already, an earlier reason stands there.
        """
        if self.front.phase.state not in {State.Closing, State.Closed} and (reason := self.back.reason()):
            self._trouble.broken(ConfigError(f"the backend in domain {self._ends.backend_domid} says: {reason}"))

    @property
    def _can_reopen(self) -> bool:
        return self.back.can_reopen and not self._slot.is_closing and not self._removing

    # ---- closing ---------------------------------------------------------------------------------------------------

    def _move_closing(self, *, domain_died: bool = False) -> None:
        try:
            if not self._slot.advance(domain_died=domain_died):
                return
        except XENSTORE_TROUBLE as error:
            self._trouble.mention(error)  # the teardown knows when to try again
            return
        self._log.info("device_closed")
        self.front.feed(Event.STOPPED)
        self.look()

    def _remove(self) -> None:
        self._slot.release()  # before anybody sees that the device is gone
        self.back.remove()
        self.front.remove()
        self._removed = True
        self._log.info("device_removed")

    # ---- what goes wrong -------------------------------------------------------------------------------------------

    def _guard(self, part: Callable[[], None]) -> None:
        """
        Does a part of the work: if a peer spoils it, the device closes; if XenStore refuses it, it is done again later.
        """
        try:
            part()
        except XENSTORE_TROUBLE as error:
            self._trouble.waits(error)
        except _OF_A_PEER as error:
            self._fail(error)

    def _attempt(self, work: Callable[[], None]) -> Event | None:
        """Carries out a step that a peer's words can spoil; if they do, the device closes and says why."""
        try:
            work()
        except _OF_A_PEER as error:
            self._trouble.broken(error)
            return Event.FAULT
        return None

    def _front_in_vain(self, error: ShadowVQError) -> None:
        """XenStore refused a step again and again: a frontend that wants another round of that has to wait."""
        self._rounds[0].pause.fail()
        self._trouble.broken(error)

    def _fail(self, error: ShadowVQError) -> None:
        self._trouble.broken(error)
        self.front.feed(Event.FAULT)


def _read_ends(context: Context, attachment: Attachment, frontend_domid: int, device_id: int, backend: int) -> Ends:
    """The configuration's policy holds unless the toolstack's nodes override it."""
    configured = context.config.policy_for(frontend_domid, device_id)
    said = {"placement": attachment.placement, "copy_threshold": attachment.copy_threshold}
    return Ends(
        frontend_domid=frontend_domid,
        device_id=device_id,
        backend_domid=backend,
        mediator_domid=context.domid,
        memory_kib=attachment.memory_kib,
        memory_is_fixed=configured.memory_is_fixed(context.hypervisor.name),
        may_balloon=attachment.may_balloon,
        mark=attachment.mark,
        policy=configured.model_copy(update={key: value for key, value in said.items() if value is not None}),
        drain_timeout_s=context.config.limits.drain_timeout_ms / 1000,
    )
