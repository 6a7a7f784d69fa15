# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a device in the mediator asks of its two legs, whatever they are made of: one to the frontend, one to the backend.

Each leg runs the machine of xenbus.py, and calls its owner for the actions of it. What a peer says wrong is a
PeerProtocolError, and what XenStore refuses is tried again: see side.py, which is the machine over XenStore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from xen_shadowvq import features
from xen_shadowvq.config import Limits
from xen_shadowvq.engine import QueueRings, ShadowRefs, WindowPlan
from xen_shadowvq.errors import PeerProtocolError, ShadowVQError
from xen_shadowvq.held import Heads, HeldPages
from xen_shadowvq.life import Life
from xen_shadowvq.native import constants
from xen_shadowvq.publish import Entry
from xen_shadowvq.xenbus import Event, Phase


@dataclass(frozen=True)
class Offer:
    """What the backend can do, as the frontend may see it."""

    device_type: int
    features: int
    config: bytes
    generation: int
    num_queues: int
    queue_size_max: int
    backend_features: int


@dataclass(frozen=True)
class Acceptance:
    """What the frontend set up. `reserved`: first and count of the grant references that it has reserved for us."""

    features: int
    queues: tuple[QueueRings, ...]
    reserved: tuple[int, int] | None


@dataclass(frozen=True)
class ChainLimits:
    """What a chain may be, so that all of it can be copied whatever else goes on: data segments, and bytes of each."""

    segments_max: int
    size_max: int


Room = tuple[str, Sequence[Entry]]
"""A directory, and what is to be written there."""

SEGMENT_PAGES = 4
"""
Pages of a segment at most. Fewer would leave more segments for a guest whose memory is in pieces; more would let a
request of contiguous memory be larger, and copy less of one that begins amid a page. With 512 bounce pages: 50 of them,
so 200 KiB in single pages, 800 KiB in one piece.
"""


def chain_limits(bounce_pages: int, queue_size_max: int) -> ChainLimits:
    """
    Limits under which a chain never touches more pages than can be copied at once (one direction's bounce slots, or the
    parts of a shadow indirect table), and never has more descriptors than the ring. A segment that begins amid a page
    touches one page more than it has; header and status are a descriptor and a page each.
    """
    c = constants("mediator")
    pages = min(int(c.SVQ_PARTS_MAX), bounce_pages // 2) - 2
    segments_max = max(1, min(pages // (SEGMENT_PAGES + 1), queue_size_max - 2))
    return ChainLimits(segments_max, SEGMENT_PAGES * int(c.SVQ_PAGE_SIZE))


class Leg(Protocol):
    """What both have."""

    phase: Phase
    trouble: ShadowVQError | None
    """Why something is tried again."""
    peer: Life
    """The domain at its other end."""
    peer_path: str
    """Where that is described, for messages."""

    @property
    def due(self) -> float | None:
        """When to call `look` without any news."""

    def begin(self, *, releasing: bool = False) -> None:
        """Takes up the leg as a new process finds it. `releasing`: what was before is not released yet."""

    def look(self) -> None:
        """Takes up what the peer has done."""

    def feed(self, event: Event) -> None:
        """Takes an event, and all that follow from it."""


class FrontLeg(Leg, Protocol):
    """To the frontend: we offer a device. Closed says that the frontend has its buffers back."""

    @property
    def unwanted(self) -> bool:
        """Whether the toolstack has taken the device away, or asks us to."""

    @property
    def peer_has_left(self) -> bool:
        """Whether the frontend's half is gone, and with it all that the device was for. As of the last `look`."""

    @property
    def peer_looks_alive(self) -> bool:
        """Whether there is anybody to end requests for."""

    def write_offer(self, offer: Offer, room: Room, *, refs_wanted: int, close_timeout_ms: int) -> None:
        """
        Offers, with the grant references that the frontend should reserve, and how long we take to close when its
        backend does not answer. All or none of that is written, and of the other leg's `room` for a connection.
        """

    def write_config(self, offer: Offer) -> None:
        """Tells of a changed configuration space (virtio 2.5.1)."""

    def read_acceptance(self, offer: Offer, grant_refs_max: int) -> Acceptance:
        """
        What the frontend has set up, against what it was offered, and against how many references its grant table can
        have (0: none is wanted, and what it has reserved for others of its devices does not matter).
        """

    def wrong_port(self, rings: QueueRings) -> PeerProtocolError:
        """Says that the event channel of a queue cannot be bound."""

    def reset_counts(self, queue: int) -> tuple[int, int]:
        """How many ring resets of a queue were asked for, and for which of them the queue was enabled again."""

    def write_resets(self, done: Mapping[int, int]) -> None:
        """Tells for some queues which reset has been carried out: no request of such a queue is alive."""

    def read_ring(self, queue: int, size: int) -> QueueRings:
        """One queue's addresses after a ring reset; it may be smaller than `size`."""

    def held_pages(self, end_again: Callable[[], int], heads: Callable[[], Heads] | None) -> HeldPages:
        """What the backend keeps of ended requests, told to the frontend; see HeldPages for the arguments."""

    def stay_closing(self) -> None:
        """Says Closing, for whoever comes after this process."""

    def remove(self) -> None:
        """Takes our half away."""


class BackLeg(Leg, Protocol):
    """To the backend: we use what it offers."""

    def read_offer(self, limits: Limits, bounce_pages: int, queues_max: int) -> Offer:
        """What it offers, lowered to what a chain of its frontend may be, and to the queues it was attached with."""

    def generation(self) -> int | None:
        """Which configuration space it has now."""

    def room_for(self, offer: Offer) -> Room:
        """
        What a connection will write, with nothing in it yet: where there is no room for it a device is not offered,
        rather than broken later.
        """

    def write_shadow(self, in_force: int, window: WindowPlan, shadow: Sequence[ShadowRefs]) -> None:
        """Tells it the shadow rings, and the features in force."""

    def has_closed(self) -> bool:
        """Looks whether it has let go of the shadow rings."""

    @property
    def can_reopen(self) -> bool:
        """Whether it is Closed, and somebody is there to open it for. As of the last `look`."""

    def reason(self) -> str | None:
        """Why it closes, if it says so, as it may be shown."""

    def remove(self) -> None:
        """Takes our half away."""


def leg2_features(offer: Offer, accepted: int) -> int:
    """The features in force on leg 2, for those that the frontend accepted."""
    return features.leg2(offer.device_type, accepted) & offer.backend_features
