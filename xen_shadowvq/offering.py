# SPDX-License-Identifier: GPL-2.0-or-later
"""
The backend's offer on its way to the frontend: lowered to what can be placed, and passed on again when it changes.
"""

from __future__ import annotations

from xen_shadowvq.config import Limits
from xen_shadowvq.connection import Ends
from xen_shadowvq.engine import WindowPlan
from xen_shadowvq.errors import ConfigError, PeerProtocolError
from xen_shadowvq.guests import NO_WINDOW, GuestTable, WindowWish
from xen_shadowvq.legs import Acceptance, BackLeg, FrontLeg, Offer
from xen_shadowvq.pace import Rate
from xen_shadowvq.trouble import Trouble

CLOSE_MARGIN_MS = 2000  # beyond the two waits that closing may take: for our own work, and for XenStore's
CONFIG_CHANGES = 1, 4.0  # at once, then so many a second


class Offering:
    """
    See the module. Calls may raise PeerProtocolError or ConfigError; the connection then has to end.

    Args:
        queues_max: how many queues the device was attached with; None: as many as the limits allow.
        trouble: its report from before an offer is withdrawn once the offer is made.
    """

    def __init__(
        self,
        front: FrontLeg,
        back: BackLeg,
        guests: GuestTable,
        ends: Ends,
        limits: Limits,
        queues_max: int | None,
        trouble: Trouble,
    ) -> None:
        self.rate = Rate(*CONFIG_CHANGES)
        self._front, self._back = front, back
        self._guests = guests
        self._ends = ends
        self._limits = limits
        self._queues_max = queues_max or limits.queues_per_device
        self._trouble = trouble
        self._wish: WindowWish = NO_WINDOW  # known with the first offer
        self._offer: Offer | None = None
        self._wanted = False

    def want(self) -> bool:
        """The frontend may have an offer from now on. Returns whether it was made at once."""
        self._wanted = True
        return self._make()

    def unwant(self) -> None:
        """The frontend's leg is closing."""
        self._wanted = False

    def take(self) -> bool:
        """Takes the backend's offer; returns whether it was passed on to the frontend."""
        if self._ends.policy.memory == "fixed" and self._ends.may_balloon:
            raise ConfigError(
                f"domain {self._ends.frontend_domid} may balloon, since its memory is below its maximum, but the "
                "configuration says memory: fixed; choose memory: remap, or make its memory and maxmem equal"
            )
        self._wish = NO_WINDOW
        if self._ends.policy.placement != "copy":
            self._wish = self._guests.wish(self._ends.frontend_domid, self._ends.memory_kib, self._ends.policy.window)
        self._offer = self._read()
        return self._make()

    def drop(self) -> None:
        """The backend no longer offers anything."""
        self._offer = None

    def relay_config(self) -> None:
        """Passes on a configuration space that changed while the device runs (virtio 2.5.1), say for a grown image."""
        if self._offer is None:
            return
        generation = self._back.generation()
        if generation in (None, self._offer.generation) or not self.rate.take():
            return
        offer = self._read()
        self._front.write_config(offer)
        self._offer = offer

    def accepted(self) -> tuple[Offer, Acceptance, WindowPlan]:
        """The offer, what the frontend accepted, and the window for that. PeerProtocolError: nothing is offered."""
        if self._offer is None:
            raise PeerProtocolError(self._front.peer_path, "Initialised", "no connection while nothing is offered")
        acceptance = self._front.read_acceptance(self._offer, self._wish.refs_max)
        reserved = acceptance.reserved
        return self._offer, acceptance, self._wish.reserved(*reserved) if reserved else self._wish.unreserved()

    def _read(self) -> Offer:
        return self._back.read_offer(self._limits, self._ends.policy.bounce_pages, self._queues_max)

    def _make(self) -> bool:
        if self._offer is None or not self._wanted:
            return False
        timeout_ms = 2 * self._limits.drain_timeout_ms + CLOSE_MARGIN_MS
        room = self._back.room_for(self._offer)
        self._front.write_offer(self._offer, room, refs_wanted=self._wish.count, close_timeout_ms=timeout_ms)
        self._trouble.over()
        self._wanted = False
        return True
