# SPDX-License-Identifier: GPL-2.0-or-later
"""The leg to the backend over XenBus (leg 2): reading its directory, checked, and writing our own."""

from __future__ import annotations

from collections.abc import Sequence

from xen_shadowvq import features
from xen_shadowvq.config import Limits
from xen_shadowvq.engine import ShadowRefs, WindowPlan
from xen_shadowvq.errors import PeerProtocolError
from xen_shadowvq.legs import Offer, Room, chain_limits
from xen_shadowvq.life import Life
from xen_shadowvq.output import node_text
from xen_shadowvq.pace import Rate
from xen_shadowvq.publish import Entry, publish
from xen_shadowvq.side import Complain, Perform, Side, read_of_peer, reader_of_peer
from xen_shadowvq.xenbus import Event, Phase, Role, peer_event
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import State, nodes, read_directory

_LET_GO = {Event.PEER_ABSENT, Event.PEER_CLOSED}
_PEER_STATES = {str(number) for number in range(1, 9)}


class XenBusBack(Side):
    """See legs.BackLeg. `own_path` is the mediator's directory, `peer_path` the backend's."""

    def __init__(
        self,
        store: XenStore,
        paths: tuple[str, str],
        peer: Life,
        perform: Perform,
        complain: Complain,
        rounds: Rate,
    ) -> None:
        super().__init__(store, Role.FRONT, *paths, perform, complain, rounds, peer.goes_on)
        self.peer = peer

    @property
    def can_reopen(self) -> bool:
        """See BackLeg. The watch on the backend's directory tells when a peer comes."""
        return self.phase is Phase.CLOSED and self.due is None and self.untrusted_peer_state in _PEER_STATES

    def has_closed(self) -> bool:
        """See BackLeg."""
        self.look()
        return peer_event(self.untrusted_peer_state) in _LET_GO

    def reason(self) -> str | None:
        """See BackLeg."""
        untrusted = read_of_peer(self._store, f"{self.peer_path}/error")
        return node_text(untrusted) if untrusted else None

    def generation(self) -> int | None:
        """See BackLeg."""
        return nodes.SvqBack.CONFIG_GENERATION.read(reader_of_peer(self._store.read), self.peer_path)

    def read_offer(self, limits: Limits, bounce_pages: int, queues_max: int) -> Offer:
        """See BackLeg. The backend is in InitWait."""
        path = self.peer_path
        found = self._store.in_transaction(
            lambda t: read_directory(reader_of_peer(t.read), nodes.SVQ_BACK, path, State.InitWait)
        )
        back = nodes.SvqBack
        queues = min(found[back.NUM_QUEUES], limits.queues_per_device, queues_max)
        size = found[back.QUEUE_SIZE_MAX]
        if size & (size - 1):
            raise PeerProtocolError(f"{path}/queue-size-max", str(size), "a power of two")
        device_type = found[back.DEVICE_TYPE]
        offered = features.offer(device_type, found[back.FEATURES], node=f"{path}/features")
        size = min(size, limits.queue_size_max)
        config, chains = found[back.CONFIG], chain_limits(bounce_pages, size)
        if device_type == features.DEVICE_TYPE_BLK:
            offered |= features.BLK_SIZE_MAX
            config = features.clamp_blk_config(
                config,
                segments_max=chains.segments_max,
                size_max=chains.size_max,
                queues=queues,
                node=f"{path}/config",
            )
        return Offer(
            device_type,
            offered,
            config,
            found[back.CONFIG_GENERATION],
            queues,
            size,
            found[back.FEATURES],
        )

    def room_for(self, offer: Offer) -> Room:
        """See BackLeg."""
        front = nodes.SvqFront
        entries: list[Entry] = [
            (front.FEATURES_ACCEPTED, 0),
            (front.NUM_QUEUES, offer.num_queues),
            (front.WINDOW_FIRST, 0),
            (front.WINDOW_COUNT, 0),
            (front.LIFETIME, "strict"),
        ]
        for n in range(offer.num_queues):
            entries += [(front.QUEUE_SIZE, 1, n), (front.QUEUE_EVENT_CHANNEL, 1, n), (front.QUEUE_RING_REFS, (0,), n)]
        return self.own_path, entries

    def write_shadow(self, in_force: int, window: WindowPlan, shadow: Sequence[ShadowRefs]) -> None:
        """See BackLeg."""
        front = nodes.SvqFront
        entries: list[Entry] = [
            (front.FEATURES_ACCEPTED, in_force),
            (front.NUM_QUEUES, len(shadow)),
            (front.WINDOW_FIRST, window.first),
            (front.WINDOW_COUNT, window.count),
            (front.LIFETIME, "strict"),
        ]
        for n, refs in enumerate(shadow):
            entries += [(front.QUEUE_SIZE, refs.size, n), (front.QUEUE_EVENT_CHANNEL, refs.port, n)]
            entries.append((front.QUEUE_RING_REFS, (*refs.desc, *refs.avail, *refs.used), n))
        publish(self._store, self.own_path, entries)

    def remove(self) -> None:
        """See BackLeg."""
        self._store.rm(self.own_path)
