# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said on the two legs: reading the neighbours' directories, checked, and writing our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xen_shadowvq import features
from xen_shadowvq.config import Limits
from xen_shadowvq.engine import Guest, Policy, QueueRings, ShadowRefs
from xen_shadowvq.errors import PeerProtocolError
from xen_shadowvq.publish import Entry, publish
from xen_shadowvq.xenstore import Transaction, XenStore
from xenstore_schema import State, nodes, read_directory

PAGE = 4096
PARTS_MAX = 256
"""SVQ_PARTS_MAX of the data plane: shadow descriptors of one chain."""


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
    """What the frontend set up."""

    features: int
    queues: tuple[QueueRings, ...]


@dataclass(frozen=True)
class ChainLimits:
    """What a chain may be, so that it always fits the device's pools: data segments, and bytes of each (None: any)."""

    segments_max: int
    size_max: int | None


def chain_limits(policy: Policy, window_grefs: int | None) -> ChainLimits:
    """
    Limits under which every chain fits one shadow indirect table, one direction's bounce slots, and the queue's part
    of a dynamic window (`window_grefs`; None: a direct window, which always fits).

    A segment becomes up to three parts (head, whole pages, tail); where it is copied, one part and slot a page.
    """
    page_slots = policy.bounce_pages // 2
    if policy.placement == "copy":
        parts = slots = 2
        size_max: int | None = slots * PAGE
    else:
        copied_pages = policy.copy_threshold // PAGE + 1
        parts, slots, size_max = max(3, copied_pages + 1), max(2, copied_pages + 1), None
    segments_max = min((PARTS_MAX - 2 * parts) // parts, page_slots // slots)  # of the table, two are header and status
    if size_max is None and window_grefs is not None:
        segments_max = min(segments_max, window_grefs // 2)
        size_max = (window_grefs // segments_max - 1) * PAGE
    return ChainLimits(max(1, segments_max), size_max)


def read_offer(store: XenStore, path: str, limits: Limits, chains_for: Callable[[int], ChainLimits]) -> Offer:
    """
    Reads the backend's directory (state InitWait); `chains_for` answers the limits for a number of queues.
    PeerProtocolError names the node that is wrong.
    """
    found = store.in_transaction(lambda t: read_directory(t.read, nodes.SVQ_BACK, path, State.InitWait))
    back = nodes.SvqBack
    queues = min(found[back.NUM_QUEUES], limits.queues_per_device)
    size = found[back.QUEUE_SIZE_MAX]
    if size & (size - 1):
        raise PeerProtocolError(f"{path}/queue-size-max", str(size), "a power of two")
    device_type = found[back.DEVICE_TYPE]
    offered = features.offer(device_type, found[back.FEATURES], node=f"{path}/features")
    config, chains = found[back.CONFIG], chains_for(queues)
    if device_type == features.DEVICE_TYPE_BLK:
        offered |= features.BLK_SIZE_MAX if chains.size_max is not None else 0
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
        min(size, limits.queue_size_max),
        found[back.FEATURES],
    )


def write_offer(store: XenStore, path: str, offer: Offer) -> None:
    """Publishes the offer on leg 1."""
    back = nodes.VirtioBack
    publish(
        store,
        path,
        [
            (back.VERSION, nodes.VERSION),
            (back.DEVICE_TYPE, offer.device_type),
            (back.FEATURES, offer.features),
            (back.CONFIG, offer.config),
            (back.CONFIG_GENERATION, offer.generation),
            (back.NUM_QUEUES, offer.num_queues),
            (back.QUEUE_SIZE_MAX, offer.queue_size_max),
            (back.NEEDS_RESET, False),
        ],
    )


def read_acceptance(store: XenStore, path: str, offer: Offer) -> Acceptance:
    """Reads the frontend's directory (state Initialised) against what it was offered. PeerProtocolError as above."""
    found = store.in_transaction(
        lambda t: read_directory(t.read, nodes.VIRTIO_FRONT, path, State.Initialised, offer.num_queues)
    )
    front = nodes.VirtioFront
    accepted = found[front.FEATURES_ACCEPTED]
    features.check_accepted(offer.features, accepted, node=f"{path}/features-accepted")
    rings = []
    for n in range(found[front.NUM_QUEUES]):
        size = found.at(front.QUEUE_SIZE, n)
        if size > offer.queue_size_max or size & (size - 1):
            expected = f"a power of two, at most {offer.queue_size_max}"
            raise PeerProtocolError(f"{path}/queue-{n}/size", str(size), expected)
        rings.append(
            QueueRings(
                n,
                size,
                found.at(front.QUEUE_DESC, n),
                found.at(front.QUEUE_AVAIL, n),
                found.at(front.QUEUE_USED, n),
                found.at(front.QUEUE_EVENT_CHANNEL, n),
            )
        )
    return Acceptance(accepted, tuple(rings))


def read_ring(store: XenStore, path: str, queue: int, size: int) -> QueueRings:
    """Reads one queue's addresses again, after a ring reset; it may be smaller. PeerProtocolError as above."""
    front = nodes.VirtioFront

    def work(transaction: Transaction) -> QueueRings:
        values = []
        for node in (
            front.QUEUE_SIZE,
            front.QUEUE_DESC,
            front.QUEUE_AVAIL,
            front.QUEUE_USED,
            front.QUEUE_EVENT_CHANNEL,
        ):
            value = node.read(transaction.read, path, queue)
            if value is None:
                raise PeerProtocolError(node.path(path, queue), None, node.expected)
            values.append(value)
        return QueueRings(queue, *values)

    rings = store.in_transaction(work)
    if rings.size > size:
        raise PeerProtocolError(f"{path}/queue-{queue}/size", str(rings.size), f"at most {size}, as it began")
    return rings


def write_shadow(
    store: XenStore, path: str, offer: Offer, accepted: int, guest: Guest, shadow: Sequence[ShadowRefs]
) -> None:
    """Publishes the shadow rings on leg 2."""
    front = nodes.SvqFront
    entries: list[Entry] = [
        (front.FEATURES_ACCEPTED, features.leg2(offer.device_type, accepted) & offer.backend_features),
        (front.NUM_QUEUES, len(shadow)),
        (front.WINDOW_OWNER, guest.domid),
        (front.WINDOW_FIRST, guest.window_first),
        (front.WINDOW_COUNT, guest.window_count),
        (front.LIFETIME, "strict"),
    ]
    for n, refs in enumerate(shadow):
        entries += [(front.QUEUE_SIZE, refs.size, n), (front.QUEUE_EVENT_CHANNEL, refs.port, n)]
        entries += [(front.QUEUE_DESC_REF, ref, n, k) for k, ref in enumerate(refs.desc)]
        entries += [(front.QUEUE_AVAIL_REF, ref, n, k) for k, ref in enumerate(refs.avail)]
        entries += [(front.QUEUE_USED_REF, ref, n, k) for k, ref in enumerate(refs.used)]
    publish(store, path, entries)
