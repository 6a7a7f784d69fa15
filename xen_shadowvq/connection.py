# SPDX-License-Identifier: GPL-2.0-or-later
"""
One connection, from Connect to Closed: a frontend's rings, the shadow rings made from them for its backend, resets of
single queues, and the teardown at the end.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from xen_shadowvq import features
from xen_shadowvq.config import Policy
from xen_shadowvq.engine import Arena, Device, Guest, QueueRings, ShadowRefs, WindowPlan, Worker
from xen_shadowvq.errors import DeviceBroken, HypervisorError
from xen_shadowvq.guests import GuestTable
from xen_shadowvq.held import HeldPages, Leftovers
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.legs import Acceptance, BackLeg, FrontLeg
from xen_shadowvq.pace import Rate
from xen_shadowvq.ring_resets import RingResets
from xen_shadowvq.teardown import Teardown

_NO_SUCH_PORT = {errno.EINVAL, errno.EPERM}  # Xen's answers when a peer's port cannot be bound


@dataclass(frozen=True)
class Ends:
    """Who is connected, and how: what does not change from one connection of a device to the next."""

    frontend_domid: int
    device_id: int
    backend_domid: int
    mediator_domid: int
    memory_kib: int
    memory_is_fixed: bool
    may_balloon: bool
    mark: int
    policy: Policy
    drain_timeout_s: float
    """
    How long the backend may take to end its requests, to close its side, and to end the requests of a reset queue.
    """


@dataclass(frozen=True)
class Parts:
    """What all connections of a device are made with. Queues go to the `workers` in turn."""

    hypervisor: Hypervisor
    guests: GuestTable
    workers: tuple[Worker, ...]
    arena: Arena
    reset_rate: Rate
    log: FilteringBoundLogger


class Remains:
    """What earlier mediators left of a device: a connection that only has to end."""

    is_closing = True
    waits_for_back = False
    """Whether the backend's leg may be used again only when this is over."""

    def __init__(self, front: FrontLeg, back: BackLeg, leftovers: Leftovers) -> None:
        self._leftovers = leftovers
        self._teardown = Teardown(None, front.held_pages(leftovers.end, None), front, back, 0.0, drain=False)

    @property
    def freed(self) -> int:
        """How many grants were taken back."""
        return self._leftovers.freed

    @property
    def due(self) -> float | None:
        """When to call `advance`."""
        return self._teardown.due

    @property
    def held_pages(self) -> int:
        """Pages that the backend is known to keep."""
        return self._teardown.held.pages

    def end_at_once(self) -> int:
        """Takes back what it can; returns the pages that the backend keeps. HypervisorError: nothing is known."""
        self._teardown.held.let_go(at_once=True)
        return self._teardown.held.pages

    def advance(self, *, domain_died: bool = False) -> bool:
        """Continues ending; returns True once that is over."""
        return self._teardown.advance(domain_died=domain_died)

    def fault(self) -> None:
        """Finds none: nobody does anything any more."""

    def is_idle(self) -> bool:
        """Whether no request could still complete."""
        return True

    def look(self) -> None:
        """Does nothing: whatever the frontend asks for does not concern it."""

    def move(self) -> None:
        """Does nothing, like `look`."""

    def status(self) -> dict[str, object]:
        """Returns nothing: it has no counters."""
        return {}

    def free(self) -> None:
        """Does nothing: it holds nothing."""


class Connection:
    """Made from what the frontend said. PeerProtocolError, DeviceBroken: that cannot be used."""

    waits_for_back = True

    def __init__(
        self, parts: Parts, ends: Ends, front: FrontLeg, back: BackLeg, acceptance: Acceptance, window: WindowPlan
    ) -> None:
        self.window = window
        self.rings = acceptance.queues
        self._ends = ends
        self._front, self._back = front, back
        self._guests = parts.guests
        self._started = False
        self._resets: RingResets | None = None  # while the frontend may ask for any
        self._teardown: Teardown | None = None
        self._guest: Guest | None = parts.guests.acquire(
            ends.frontend_domid, ends.memory_kib, fixed=ends.memory_is_fixed
        )
        try:
            self.device = self._make_device(parts, self._guest, acceptance)
            try:
                workers = parts.workers
                self.shadow = [
                    self._set_up_queue(workers[rings.index % len(workers)], rings) for rings in acceptance.queues
                ]
                if acceptance.features & features.RING_RESET:
                    self._resets = RingResets(
                        front, self.device, self.rings, parts.reset_rate, ends.drain_timeout_s, parts.log
                    )
            except BaseException:
                self.device.close()
                raise
        except BaseException:
            parts.guests.release(self._guest)
            raise

    def _make_device(self, parts: Parts, guest: Guest, acceptance: Acceptance) -> Device:
        return Device(
            guest,
            parts.hypervisor,
            backend_domid=self._ends.backend_domid,
            num_queues=len(acceptance.queues),
            policy=self._ends.policy,
            mark=self._ends.mark,
            window=self.window,
            event_idx=bool(acceptance.features & features.EVENT_IDX),
            indirect=bool(acceptance.features & features.INDIRECT_DESC),
            arena=parts.arena,
        )

    # ---- while it lives --------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Lets requests flow from now on; returns False if they already do."""
        if self._started:
            return False
        self.device.start()
        self._started = True
        return True

    def fault(self) -> DeviceBroken | None:
        """The first thing that a peer did wrong."""
        return self.device.fault()

    def look(self) -> None:
        """
        Takes up what the frontend asks for while connected. PeerProtocolError, DeviceBroken: the connection has to end.
        """
        if self._resets is not None:
            self._resets.look()

    def move(self) -> None:
        """Continues what `look` has begun; raises the same errors."""
        if self._resets is not None:
            self._resets.advance()

    @property
    def due(self) -> float | None:
        """When to call `advance` if it is closing, else when to call `move`."""
        if self._teardown is not None:
            return self._teardown.due
        return self._resets.due if self._resets is not None else None

    def status(self) -> dict[str, object]:
        """Its counters."""
        return {
            "window": "direct" if self.window.direct else "dynamic",
            "window_in_use": self.device.window_in_use(),
            "window_lost": self.device.window_lost(),
            **self.device.stats(),
        }

    # ---- its end ---------------------------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._teardown is not None

    @property
    def held_pages(self) -> int:
        """Pages that the backend is known to keep."""
        return self._teardown.held.pages if self._teardown else 0

    def is_idle(self) -> bool:
        """Takes no more requests; returns whether none of those in flight could still complete."""
        return self.is_closing or self.fault() is not None or self.device.drain() == 0

    def close(self, *, drain: bool) -> None:
        """Begins the teardown. `drain` says whether requests in flight may complete."""
        if self._teardown is None:
            self._resets = None
            timeout_s = self._ends.drain_timeout_s
            self._teardown = Teardown(self.device, self._held(), self._front, self._back, timeout_s, drain=drain)

    def advance(self, *, domain_died: bool = False) -> bool:
        """Continues the teardown; returns True if it is over, or has not begun."""
        return self._teardown is None or self._teardown.advance(domain_died=domain_died)

    def end_at_once(self) -> int:
        """Ends all that it can without the peers; returns the pages that the backend keeps."""
        held = self._teardown.held if self._teardown else self._held()
        held.let_go(at_once=True)
        return held.pages

    def free(self) -> None:
        """Releases everything; pages that the backend has mapped keep the device's mark. Safe to call twice."""
        self._resets = None
        if self._guest is not None:
            self.device.close()
            self._guests.release(self._guest)
            self._guest = None

    def _held(self) -> HeldPages:
        device = self.device

        def heads() -> dict[int, bytes]:
            return {queue: device.held(queue) for queue in range(device.num_queues)}

        return self._front.held_pages(device.stop, heads)

    def _set_up_queue(self, worker: Worker, rings: QueueRings) -> ShadowRefs:
        try:
            return self.device.setup_queue(worker, rings)
        except HypervisorError as error:
            if error.errno not in _NO_SUCH_PORT:
                raise
            raise self._front.wrong_port(rings) from error
