# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a device in the mediator asks of its two legs, however they are implemented: one to the frontend, one to the
backend.

Each leg runs the machine of xenbus.py, and calls its owner to carry out the machine's actions. A peer's mistake is a
PeerProtocolError, and what XenStore refuses is tried again: see side.py, which runs the machine over XenStore.
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
    """The limits within which all of a chain can be copied, whatever else goes on: data segments, and bytes of each."""

    segments_max: int
    size_max: int


Room = tuple[str, Sequence[Entry]]
"""A directory, and what is to be written there."""

SEGMENT_PAGES = 4
"""
The most pages of a segment. Fewer would leave more segments for a guest whose memory is fragmented; more would allow
larger requests of contiguous memory, and copy less of one that begins inside a page. With 512 bounce pages there are 50
segments: 200 KiB in single pages, 800 KiB in contiguous memory.
"""


def chain_limits(bounce_pages: int, queue_size_max: int) -> ChainLimits:
    """
    Limits under which a chain never touches more pages than can be copied at once (one direction's bounce slots, or the
    parts of a shadow indirect table), and never has more descriptors than the ring. A segment that begins inside a page
    touches one page more than it has; header and status are a descriptor and a page each.
    """
    c = constants("mediator")
    pages = min(int(c.SVQ_PARTS_MAX), bounce_pages // 2) - 2
    segments_max = max(1, min(pages // (SEGMENT_PAGES + 1), queue_size_max - 2))
    return ChainLimits(segments_max, SEGMENT_PAGES * int(c.SVQ_PAGE_SIZE))


class Leg(Protocol):
    """What both legs have."""

    phase: Phase
    trouble: ShadowVQError | None
    """Why something is being tried again."""
    peer: Life
    """The domain at its other end."""
    peer_path: str
    """The peer's directory, for messages."""

    @property
    def due(self) -> float | None:
        """When to call `look` without any news."""

    def begin(self, *, releasing: bool = False) -> None:
        """Takes up the leg as a new process finds it. `releasing`: earlier resources are not released yet."""

    def look(self) -> None:
        """Takes up what the peer has done."""

    def feed(self, event: Event) -> None:
        """Takes an event, and all events that follow from it."""


class FrontLeg(Leg, Protocol):
    """The leg to the frontend: we offer a device. Closed says that the frontend has its buffers back."""

    @property
    def unwanted(self) -> bool:
        """Whether the toolstack has taken the device away, or asks us to."""

    @property
    def peer_has_left(self) -> bool:
        """Whether the frontend's half is gone, and with it all use for the device. As of the last `look`."""

    @property
    def peer_looks_alive(self) -> bool:
        """Whether there is anybody to end requests for."""

    def write_offer(self, offer: Offer, room: Room, *, refs_wanted: int, close_timeout_ms: int) -> None:
        """
        Makes the offer, with the number of grant references that the frontend should reserve, and how long we take to
        close if its backend does not answer. The offer and the other leg's `room` for a connection are written
        together, or not at all.
        """

    def write_config(self, offer: Offer) -> None:
        """Tells the frontend of a changed configuration space (virtio 2.5.1)."""

    def read_acceptance(self, offer: Offer, grant_refs_max: int) -> Acceptance:
        """
        What the frontend has set up, checked against what it was offered and against how many references its grant
        table can have (0: none is wanted, and what it has reserved for its other devices does not matter).
        """

    def wrong_port(self, rings: QueueRings) -> PeerProtocolError:
        """The error that says that a queue's event channel cannot be bound."""

    def reset_counts(self, queue: int) -> tuple[int, int]:
        """How many ring resets of a queue were requested, and after which of them the queue was enabled again."""

    def write_resets(self, done: Mapping[int, int]) -> None:
        """Tells for some queues which reset is done: no request of such a queue is alive."""

    def read_ring(self, queue: int, size: int) -> QueueRings:
        """One queue's addresses after a ring reset; it may be smaller than `size`."""

    def held_pages(self, end_again: Callable[[], int], heads: Callable[[], Heads] | None) -> HeldPages:
        """What the backend keeps of ended requests, as the frontend is told; see HeldPages for the arguments."""

    def stay_closing(self) -> None:
        """Says Closing, for the process that comes after this one."""

    def remove(self) -> None:
        """Removes our half."""


class BackLeg(Leg, Protocol):
    """The leg to the backend: we use what it offers."""

    def read_offer(self, limits: Limits, bounce_pages: int, queues_max: int) -> Offer:
        """
        What it offers, limited to what a chain may be and to the number of queues that the device was attached with.
        """

    def generation(self) -> int | None:
        """The generation of its configuration space now."""

    def room_for(self, offer: Offer) -> Room:
        """
        What a connection will write, still without contents: without room for that, a device is not offered at all,
        rather than broken later.
        """

    def write_shadow(self, in_force: int, window: WindowPlan, shadow: Sequence[ShadowRefs]) -> None:
        """Tells the backend the shadow rings, and the features in force."""

    def has_closed(self) -> bool:
        """Looks whether the backend has let go of the shadow rings."""

    @property
    def can_reopen(self) -> bool:
        """Whether it is Closed, and there is a peer to reopen it with. As of the last `look`."""

    def reason(self) -> str | None:
        """Why the backend closes, if it says so, in a form that may be shown."""

    def remove(self) -> None:
        """Removes our half."""


def leg2_features(offer: Offer, accepted: int) -> int:
    """The features in force on leg 2, for those that the frontend accepted."""
    return features.leg2(offer.device_type, accepted) & offer.backend_features
