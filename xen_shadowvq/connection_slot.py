# SPDX-License-Identifier: GPL-2.0-or-later
"""The one connection that a device can have at a time, and what outlives it."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from xen_shadowvq.connection import Connection, Ends, Parts, Remains
from xen_shadowvq.engine import Arena, WindowPlan, Worker
from xen_shadowvq.errors import DeviceBroken
from xen_shadowvq.guests import GuestTable
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.legs import Acceptance, BackLeg, FrontLeg, Offer, leg2_features
from xen_shadowvq.pace import Rate
from xen_shadowvq.tracing import Tracing


class ConnectionSlot:
    """
    Holds a connection from Connect to Closed, or what an earlier mediator left of one. While it is empty, its questions
    have the answers of a device that is at rest.

    The pages that the backend sees (arena), the rate of ring resets and the trace belong to the device, and outlive
    connections.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        guests: GuestTable,
        workers: tuple[Worker, ...],
        ends: Ends,
        reset_rate: Rate,
        tracing: Tracing,
        log: FilteringBoundLogger,
    ) -> None:
        self._hypervisor = hypervisor
        self._guests = guests
        first = (ends.frontend_domid + ends.device_id) % len(workers)
        self._workers = (*workers[first:], *workers[:first])
        self._ends = ends
        self._reset_rate = reset_rate
        self._tracing = tracing
        self._log = log
        self._arena: Arena | None = None  # from the first connection on
        self._held: Connection | Remains | None = None

    # ---- filling it ------------------------------------------------------------------------------------------------

    def take(self, remains: Remains) -> None:
        """What an earlier mediator left is to end first."""
        self._held = remains

    def connect(self, front: FrontLeg, back: BackLeg, offer: Offer, acceptance: Acceptance, window: WindowPlan) -> None:
        """
        Makes shadow rings of the frontend's rings, and tells the backend. Whatever was in the slot came from an attempt
        that was interrupted, so nothing of it was started or granted. PeerProtocolError, DeviceBroken: the frontend's
        words cannot be used.
        """
        self.free()
        if self._arena is None:
            self._arena = Arena(self._hypervisor, self._ends.backend_domid)
        parts = Parts(self._hypervisor, self._guests, self._workers, self._arena, self._reset_rate, self._log)
        self._held = made = Connection(parts, self._ends, front, back, acceptance, window)
        self._tracing.connected(made.device)
        back.write_shadow(leg2_features(offer, acceptance.features), window, made.shadow)

    def start(self) -> bool:
        """Requests flow from now on. False: there is no connection, or it is closing."""
        if not isinstance(self._held, Connection) or self._held.is_closing:
            return False
        if self._held.start():
            self._log.info("device_connected", queues=len(self._held.rings))
        return True

    # ---- what is in it ---------------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to close."""
        return self._held is None

    @property
    def is_closing(self) -> bool:
        """Whether something in it is being taken apart."""
        return self._held is not None and self._held.is_closing

    @property
    def waits_for_back(self) -> bool:
        """Whether the backend's leg may be used again only once the slot is empty."""
        return self._held is not None and self._held.waits_for_back

    @property
    def due(self) -> float | None:
        """When to call `advance` or `move`."""
        return self._held.due if self._held else None

    @property
    def held_pages(self) -> int:
        """Pages that the backend is known to keep."""
        return self._held.held_pages if self._held else 0

    def is_idle(self) -> bool:
        """Takes no more requests; whether none of those in flight could still complete."""
        return self._held is None or self._held.is_idle()

    def fault(self) -> DeviceBroken | None:
        """The first thing that a peer did wrong on a connection that is not closing for it yet."""
        return None if self._held is None or self._held.is_closing else self._held.fault()

    def status(self) -> dict[str, object]:
        """The connection's counters."""
        return self._held.status() if self._held else {}

    def look(self) -> None:
        """Takes up what the frontend asks for while it is connected. PeerProtocolError, DeviceBroken: it has to end."""
        if self._held:
            self._held.look()

    def move(self) -> None:
        """Goes on with what `look` has begun; raises as that does."""
        if self._held:
            self._held.move()

    # ---- emptying it -----------------------------------------------------------------------------------------------

    def close(self, *, drain: bool) -> None:
        """Begins to take the connection apart. `drain`: requests in flight may complete."""
        if isinstance(self._held, Connection):
            self._held.close(drain=drain)

    def advance(self, *, domain_died: bool) -> bool:
        """Goes on with the end. True: it has just come, and the slot is empty."""
        if self._held is None or not self._held.is_closing or not self._held.advance(domain_died=domain_died):
            return False
        self.free()
        return True

    def end_at_once(self) -> int:
        """Ends all that can be ended, without the peers; returns the pages that the backend keeps."""
        return self._held.end_at_once() if self._held else 0

    def free(self) -> None:
        """Releases what is in it; pages that the backend has mapped keep the device's mark. Safe to call twice."""
        if self._held:
            self._tracing.ending()
            self._held.free()
            self._held = None

    def release(self) -> None:
        """The same, and what outlives connections."""
        self.free()
        if self._arena:
            self._arena.close()
            self._arena = None
