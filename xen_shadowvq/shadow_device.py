# SPDX-License-Identifier: GPL-2.0-or-later
"""
One device in the mediator: both legs and the data plane between them.

Leg 2's offer comes first (the backend says what it has), then leg 1's; the frontend's rings then make leg 2's shadow
rings, and when the backend has taken those up, requests flow. Closing goes the other way round: drain, then leg 2, then
the data plane, then leg 1, so that no side sees Closed while somebody still holds its pages.
"""

from __future__ import annotations

import enum
import errno
import time
from collections.abc import Callable
from dataclasses import dataclass

from xen_shadowvq import features, legs
from xen_shadowvq.answer import Answer
from xen_shadowvq.config import Config
from xen_shadowvq.engine import GRANTS_PER_FRAME, Device, Guest, Policy, QueueRings, ShadowRefs, WindowPlan, Worker
from xen_shadowvq.errors import ConfigError, DeviceBroken, HypervisorError, PeerProtocolError, ShadowVQError
from xen_shadowvq.guests import GuestTable
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.log import RateLimited, get_logger
from xen_shadowvq.publish import publish, withdraw
from xen_shadowvq.ring_resets import RingResets
from xen_shadowvq.service import touches
from xen_shadowvq.side import Side, read_of_peer
from xen_shadowvq.xenbus import Action, Event, Phase, Role
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes

_PEER_STATES = {str(number) for number in range(1, 9)}
_PEER_DONE_STATES = {None, "6"}  # no such node, or Closed
_NO_SUCH_PORT = {errno.EINVAL, errno.EPERM}  # Xen's answers when a peer's port cannot be bound

complaints = RateLimited(interval_s=1.0)


@dataclass(frozen=True)
class Context:
    """What all devices of a mediator share."""

    store: XenStore
    hypervisor: Hypervisor
    config: Config
    guests: GuestTable
    workers: tuple[Worker, ...]
    domid: int


class _Teardown(enum.Enum):
    NONE = "none"
    DRAINING = "draining"
    CLOSING_LEG2 = "closing-leg2"


class ShadowDevice:
    """See the module. `look` takes up whatever changed in XenStore; `tick` moves what waits for time or completions."""

    def __init__(self, context: Context, frontend_domid: int, device_id: int) -> None:
        self._context = context
        self._store = context.store
        self.frontend_domid = frontend_domid
        self.device_id = device_id
        self.path = nodes.virtio_back_path(mediator=context.domid, frontend=frontend_domid, device=device_id)
        self.front_path = nodes.virtio_front_path(frontend=frontend_domid, device=device_id)
        self._policy = self._read_policy()
        self._policy_window = context.config.policy_for(frontend_domid, device_id).window
        self._window = WindowPlan(first_frame=0, frames=0, direct=False)  # planned with the first offer
        handle = nodes.VirtioBack.SVQ_HANDLE.read(self._store.read, self.path)
        if handle is None:
            raise PeerProtocolError(f"{self.path}/svq-handle", None, nodes.VirtioBack.SVQ_HANDLE.expected)
        self.leg2_path = nodes.svq_front_path(mediator=context.domid, handle=handle)
        backend = nodes.SvqFront.BACKEND_ID.read(self._store.read, self.leg2_path)
        if backend is None:
            raise PeerProtocolError(f"{self.leg2_path}/backend-id", None, nodes.SvqFront.BACKEND_ID.expected)
        self.backend_domid = backend
        backend_path = nodes.svq_back_path(backend=backend, mediator=context.domid, handle=handle)
        self.leg1 = Side(self._store, Role.BACK, self.path, self.front_path, self._on_leg1)
        self.leg2 = Side(self._store, Role.FRONT, self.leg2_path, backend_path, self._on_leg2)
        self._log = get_logger(domid=frontend_domid, device=device_id, backend=backend)
        self._offer: legs.Offer | None = None
        self._offer_wanted = False
        self._guest: Guest | None = None
        self._device: Device | None = None
        self._resets: RingResets | None = None  # while the frontend may ask for any
        self._teardown = _Teardown.NONE
        self._deadline = 0.0
        self._stats = Answer(self._store, self.path, nodes.VirtioBack.STATS_REQUEST, nodes.VirtioBack.STATS)
        self._removing = False
        self._backend_present = False

    # ---- what the service calls ------------------------------------------------------------------------------------

    @property
    def watched_roots(self) -> tuple[str, ...]:
        """The frontend's devices, and those of this mediator at the backend."""
        back = nodes.svq_back_root(backend=self.backend_domid)
        return (nodes.virtio_front_root(frontend=self.frontend_domid), f"{back}/{self._context.domid}")

    def concerns(self, path: str) -> bool:
        """State changes, ring resets, a changed configuration space, and what the toolstack asks."""
        return touches(
            path,
            {
                self.front_path: ("state", "queue-"),
                self.leg2.peer_path: ("state", "config-generation"),
                self.path: ("online", "stats-request"),
            },
        )

    @property
    def gone(self) -> bool:
        """Nothing is left of it: forget it."""
        return self.leg1.phase is Phase.GONE and self._teardown is _Teardown.NONE

    @property
    def busy(self) -> bool:
        """It waits for something that no watch tells: call `tick` soon."""
        return self._teardown is not _Teardown.NONE or self._resetting or self._leg2_can_reopen

    def begin(self) -> None:
        """Takes up both legs as they are found."""
        self.leg2.begin()
        self.leg1.begin()
        self.look()

    def look(self) -> None:
        """Takes up what changed in XenStore."""
        if self._store.read(f"{self.path}/state") is None or self._store.read(f"{self.path}/online") == "0":
            self._removing = True
            self.leg1.feed(Event.DETACH)
        self._backend_present = read_of_peer(self._store, self.leg2.peer_state_path) in _PEER_STATES
        self.leg2.look()
        self.leg1.look()
        if self.leg1.phase is Phase.CLOSED and read_of_peer(self._store, f"{self.front_path}/state") is None:
            self._removing = True  # the frontend domain is gone, and with it all that this device was for
            self.leg1.feed(Event.DETACH)
        self._relay_config()
        if self.leg1.phase is Phase.CONNECTED:
            self._move_resets(RingResets.look)
        self._stats.look(self.status)

    def check_fault(self) -> None:
        """Closes the device if a peer broke it."""
        fault = self._device.fault() if self._device else None
        if fault is not None and self._teardown is _Teardown.NONE:
            self._complain(fault)
            self.leg1.feed(Event.FAULT)

    def tick(self) -> None:
        """Moves a teardown or ring reset on."""
        if self._teardown is _Teardown.DRAINING:
            alive = self._device.drain() if self._device and self._device.fault() is None else 0
            if alive == 0 or time.monotonic() >= self._deadline:
                self._close_leg2()
        elif self._teardown is _Teardown.CLOSING_LEG2:
            peer = read_of_peer(self._store, self.leg2.peer_state_path)
            if peer in _PEER_DONE_STATES or time.monotonic() >= self._deadline:
                self._finish_teardown()
        self._move_resets(RingResets.advance)
        if self._leg2_can_reopen:
            self.leg2.feed(Event.REOPEN)

    def release(self) -> None:
        """Lets go of everything at once, without the peers: the service ends."""
        self._free_data_plane()

    def status(self) -> dict[str, object]:
        """What `ctl status` shows."""
        report: dict[str, object] = {
            "frontend": self.frontend_domid,
            "device": self.device_id,
            "backend": self.backend_domid,
            "state": self.leg1.phase.value,
            "backend_state": self.leg2.phase.value,
            "placement": self._policy.placement,
        }
        if self._guest:
            report["window"] = "direct" if self._guest.window.direct else "dynamic"
            report["window_in_use"] = self._guest.window_in_use()
        if self._device:
            report |= self._device.stats()
        held = self._context.hypervisor.counters()
        return report | {f"mediator_{name}": count for name, count in held.items()}

    # ---- leg 1: we offer to the frontend ---------------------------------------------------------------------------

    def _on_leg1(self, action: Action) -> Event | None:
        match action:
            case Action.OFFER:
                self._offer_wanted = True
                return self._try_offer()
            case Action.CONNECT:
                return self._attempt(self._connect)
            case Action.DISCONNECT:
                self._complain_of_state()
                self._begin_teardown()
            case Action.REMOVE:
                self.leg2.feed(Event.DETACH)
                withdraw(self._store, self.path)
                self._store.rm(self.leg2_path)
                self._log.info("device_removed")
        return None

    def _try_offer(self) -> Event | None:
        if self._offer is None or not self._offer_wanted:
            return None
        self._offer_wanted = False
        legs.write_offer(self._store, self.path, self._offer)
        self._store.rm(f"{self.path}/error")
        return Event.OFFER_READY

    def _connect(self) -> None:
        """The frontend's rings become shadow rings; CONNECT_DONE comes when the backend has taken those up."""
        offer = self._offer
        if offer is None:
            raise PeerProtocolError(self.front_path, "Initialised", "no connection while nothing is offered")
        acceptance = legs.read_acceptance(self._store, self.front_path, offer)
        self._guest = self._context.guests.acquire(self.frontend_domid, self._frontend_memory(), self._window)
        queues = len(acceptance.queues)
        self._device = Device(
            self._guest,
            self._context.hypervisor,
            backend_domid=self.backend_domid,
            num_queues=queues,
            policy=self._policy,
            window_grefs=self._window_grefs(offer.num_queues),
            event_idx=bool(acceptance.features & features.EVENT_IDX),
            indirect=bool(acceptance.features & features.INDIRECT_DESC),
        )
        workers = self._context.workers
        first = self.frontend_domid + self.device_id
        shadow = [
            self._set_up_queue(self._device, workers[(first + rings.index) % len(workers)], rings)
            for rings in acceptance.queues
        ]
        if acceptance.features & features.RING_RESET:
            paths = self.path, self.front_path
            self._resets = RingResets(self._store, paths, self._device, acceptance.queues, self._log)
        legs.write_shadow(self._store, self.leg2_path, offer, acceptance.features, self._guest, shadow)
        self.leg2.feed(Event.SETUP_DONE)

    def _set_up_queue(self, device: Device, worker: Worker, rings: QueueRings) -> ShadowRefs:
        try:
            return device.setup_queue(worker, rings)
        except HypervisorError as error:
            if error.errno not in _NO_SUCH_PORT:
                raise
            node = nodes.VirtioFront.QUEUE_EVENT_CHANNEL.path(self.front_path, rings.index)
            expected = f"an unbound port of domain {self.frontend_domid} for domain {self._context.domid}"
            raise PeerProtocolError(node, str(rings.port), expected) from error

    # ---- leg 2: we use what the backend offers ---------------------------------------------------------------------

    def _on_leg2(self, action: Action) -> Event | None:
        match action:
            case Action.SETUP:
                return self._attempt(self._take_offer)
            case Action.START:
                if self._device:
                    self._device.start()
                    self._log.info("device_connected", queues=self._device.num_queues)
                    self.leg1.feed(Event.CONNECT_DONE)
            case Action.STOP:
                self._offer = None
                if self._teardown is _Teardown.NONE:  # the backend closed, or left: leg 1 follows
                    self.leg1.feed(Event.FAULT)
                    if self._teardown is _Teardown.NONE:  # leg 1 holds nothing
                        return Event.STOPPED
            case Action.REMOVE:
                pass  # leg 1 removes both directories
        return None

    def _take_offer(self) -> None:
        self._window = self._context.guests.plan(self.frontend_domid, self._frontend_memory(), self._policy_window)
        self._offer = self._read_offer()
        ready = self._try_offer()
        if ready:
            self.leg1.feed(ready)

    def _read_offer(self) -> legs.Offer:
        limits = self._context.config.limits
        return legs.read_offer(self._store, self.leg2.peer_path, limits, self._chain_limits)

    def _chain_limits(self, queues: int) -> legs.ChainLimits:
        return legs.chain_limits(self._policy, None if self._window.direct else self._window_grefs(queues))

    def _window_grefs(self, queues: int) -> int:
        """Entries of a dynamic window for each of a device's queues: several devices share a frontend's window."""
        count = self._window.frames * GRANTS_PER_FRAME
        return max(256, min(4096, count // (4 * queues)))

    def _frontend_memory(self) -> int:
        node = nodes.VirtioBack.FRONTEND_MEMORY
        memory = node.read(self._store.read, self.path)
        if memory is None:
            raise PeerProtocolError(f"{self.path}/frontend-memory", None, node.expected)
        return memory

    def _relay_config(self) -> None:
        """The configuration space may change while the device runs (virtio 2.5.1): a grown image, say."""
        if self._offer is None or self.leg1.phase not in {Phase.OFFERED, Phase.CONNECTED}:
            return
        try:
            generation = nodes.SvqBack.CONFIG_GENERATION.read(self._store.read, self.leg2.peer_path)
            if generation is None or generation == self._offer.generation:
                return
            offer = self._read_offer()
        except PeerProtocolError as error:
            self._complain(error)
            return
        self._offer = offer
        back = nodes.VirtioBack
        publish(self._store, self.path, [(back.CONFIG, offer.config), (back.CONFIG_GENERATION, offer.generation)])

    # ---- closing ---------------------------------------------------------------------------------------------------

    @property
    def _drain_timeout_s(self) -> float:
        return self._context.config.limits.drain_timeout_ms / 1000

    def _begin_teardown(self) -> None:
        self._offer_wanted = False
        if self._teardown is not _Teardown.NONE:
            return
        if self._device is None:
            self._free_data_plane()
            self.leg1.feed(Event.STOPPED)
            return
        self._teardown = _Teardown.DRAINING
        frontend_lives = read_of_peer(self._store, f"{self.front_path}/state") is not None
        worth_waiting = frontend_lives and self.leg2.phase is Phase.CONNECTED
        self._deadline = time.monotonic() + (self._drain_timeout_s if worth_waiting else 0.0)
        self._resets = None
        self.tick()

    def _close_leg2(self) -> None:
        self._teardown = _Teardown.CLOSING_LEG2
        self._deadline = time.monotonic() + self._drain_timeout_s
        self.leg2.feed(Event.FAULT)

    def _finish_teardown(self) -> None:
        left = self._free_data_plane()
        if left:
            self._log.warning("grants_in_quarantine", pages=left)
        self._teardown = _Teardown.NONE
        self._log.info("device_closed")
        self.leg2.feed(Event.STOPPED)
        self.leg1.feed(Event.STOPPED)
        self.look()

    def _free_data_plane(self) -> int:
        self._resets = None
        left = 0
        if self._device:
            left = self._device.close()
            self._device = None
        if self._guest:
            self._context.guests.release(self._guest)
            self._guest = None
        return left

    @property
    def _leg2_can_reopen(self) -> bool:
        """Only for a backend that is there: its directory's watch tells when one comes."""
        idle = self.leg2.phase is Phase.CLOSED and self._teardown is _Teardown.NONE
        return idle and self._backend_present and not self._removing

    # ---- the rest --------------------------------------------------------------------------------------------------

    @property
    def _resetting(self) -> bool:
        return self._resets is not None and self._resets.busy

    def _move_resets(self, step: Callable[[RingResets], None]) -> None:
        try:
            if self._resets is not None:
                step(self._resets)
        except (PeerProtocolError, DeviceBroken) as error:
            self._fail(error)

    def _read_policy(self) -> Policy:
        """The configuration's policy, as far as the toolstack's nodes do not say otherwise."""
        base = self._context.config.policy_for(self.frontend_domid, self.device_id)
        placement = nodes.VirtioBack.PLACEMENT.read(self._store.read, self.path)
        threshold = nodes.VirtioBack.COPY_THRESHOLD.read(self._store.read, self.path)
        return Policy(
            placement=placement or base.placement,
            copy_threshold=base.copy_threshold if threshold is None else threshold,
            bounce_pages=base.bounce_pages,
            large_chains=base.large_chains,
        )

    def _complain_of_state(self) -> None:
        """The machine closes a device whose frontend's state is none; this says why."""
        untrusted, node = self.leg1.untrusted_peer_state, nodes.VirtioFront.STATE
        if untrusted is not None and node.value_of(untrusted) is None:
            self._complain(PeerProtocolError(self.leg1.peer_state_path, untrusted, node.expected))

    def _attempt(self, work: Callable[[], None]) -> Event | None:
        """Carries out a step that a peer's words can spoil; if they do, the device closes and says why."""
        try:
            work()
        except (PeerProtocolError, DeviceBroken, HypervisorError, ConfigError) as error:
            self._complain(error)
            return Event.FAULT
        return None

    def _fail(self, error: ShadowVQError) -> None:
        self._complain(error)
        self.leg1.feed(Event.FAULT)

    def _complain(self, error: ShadowVQError) -> None:
        complaints.warning(self._log, "device_broken", key=(self.frontend_domid, self.device_id), reason=str(error))
        if self._store.read(f"{self.path}/state") is not None:
            self._store.write(f"{self.path}/error", str(error)[:1024])
            self._store.write(f"{self.path}/needs-reset", "1")
