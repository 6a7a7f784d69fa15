# SPDX-License-Identifier: GPL-2.0-or-later
"""The leg to the frontend over XenBus (leg 1): reading its directory, checked, and writing our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from xen_shadowvq import features
from xen_shadowvq.engine import QueueRings
from xen_shadowvq.errors import PeerProtocolError
from xen_shadowvq.held import Heads, HeldPages
from xen_shadowvq.legs import Acceptance, Offer, Room
from xen_shadowvq.life import Life
from xen_shadowvq.pace import Rate
from xen_shadowvq.publish import publish, rewrite, withdraw
from xen_shadowvq.side import Complain, Perform, Side, read_of_peer, reader_of_peer
from xen_shadowvq.xenbus import Role
from xen_shadowvq.xenstore import Transaction, XenStore
from xenstore_schema import State, nodes, read_directory
from xenstore_schema.spec import Node, Values

T = TypeVar("T")


@dataclass(frozen=True)
class Attachment:
    """What the toolstack has written about a device in our directory; it does not change."""

    handle: int
    mark: int
    memory_kib: int
    may_balloon: bool
    queues: int | None
    placement: str | None
    copy_threshold: int | None

    @classmethod
    def read(cls, store: XenStore, path: str) -> Attachment:
        """Reads it. PeerProtocolError: a node is missing, or has a value that no toolstack writes."""
        back = nodes.VirtioBack
        return cls(
            handle=read_own(store, path, back.SVQ_HANDLE),
            mark=read_own(store, path, back.GRANT_MARK),
            memory_kib=read_own(store, path, back.FRONTEND_MEMORY),
            may_balloon=back.FRONTEND_BALLOONS.read(store.read, path) or False,
            queues=back.QUEUES.read(store.read, path),
            placement=back.PLACEMENT.read(store.read, path),
            copy_threshold=back.COPY_THRESHOLD.read(store.read, path),
        )


def read_own(store: XenStore, path: str, node: Node[T]) -> T:
    """A node that the toolstack has written in our own directory. PeerProtocolError: it is missing or wrong."""
    value = node.read(store.read, path)
    if value is None:
        raise PeerProtocolError(node.path(path), None, node.expected)
    return value


class XenBusFront(Side):
    """See legs.FrontLeg. `own_path` is the mediator's directory, `peer_path` the frontend's."""

    def __init__(
        self,
        store: XenStore,
        paths: tuple[str, str],
        peer: Life,
        perform: Perform,
        complain: Complain,
        rounds: Rate,
        log: FilteringBoundLogger,
    ) -> None:
        super().__init__(store, Role.BACK, *paths, perform, complain, rounds, peer.goes_on)
        self.peer = peer
        self._log = log
        self._read = reader_of_peer(store.read)

    # ---- who is there ----------------------------------------------------------------------------------------------

    @property
    def unwanted(self) -> bool:
        """See FrontLeg."""
        gone = self._store.read(f"{self.own_path}/state") is None
        return gone or self._store.read(f"{self.own_path}/online") == "0"

    @property
    def peer_has_left(self) -> bool:
        """See FrontLeg. A state that is not ours to read may be a living frontend's."""
        if self.untrusted_peer_state is not None:
            return False
        return not self.peer_is_unreadable or not self.peer.goes_on()

    @property
    def peer_looks_alive(self) -> bool:
        """See FrontLeg."""
        return read_of_peer(self._store, self.peer_state_path) is not None

    def wrong_state(self) -> PeerProtocolError | None:
        """
        What is wrong with the frontend's state, if it is not a XenBus state: the machine closes the device for it.
        """
        untrusted, node = self.untrusted_peer_state, nodes.VirtioFront.STATE
        if untrusted is None or node.value_of(untrusted) is not None:
            return None
        return PeerProtocolError(self.peer_state_path, untrusted, node.expected)

    # ---- connecting ------------------------------------------------------------------------------------------------

    def write_offer(self, offer: Offer, room: Room, *, refs_wanted: int, close_timeout_ms: int) -> None:
        """See FrontLeg."""
        back = nodes.VirtioBack
        publish(
            self._store,
            self.own_path,
            [
                (back.VERSION, nodes.VERSION),
                (back.DEVICE_TYPE, offer.device_type),
                (back.FEATURES, offer.features),
                (back.CONFIG, offer.config),
                (back.CONFIG_GENERATION, offer.generation),
                (back.NUM_QUEUES, offer.num_queues),
                (back.QUEUE_SIZE_MAX, offer.queue_size_max),
                (back.GRANT_REFS_WANTED, refs_wanted),
                (back.CLOSE_TIMEOUT_MS, close_timeout_ms),
                (back.NEEDS_RESET, False),
            ],
            room,
        )

    def write_config(self, offer: Offer) -> None:
        """See FrontLeg."""
        back = nodes.VirtioBack
        publish(self._store, self.own_path, [(back.CONFIG, offer.config), (back.CONFIG_GENERATION, offer.generation)])

    def read_acceptance(self, offer: Offer, grant_refs_max: int) -> Acceptance:
        """See FrontLeg. The frontend is Initialised."""
        path = self.peer_path
        found = self._store.in_transaction(
            lambda t: read_directory(
                reader_of_peer(t.read), nodes.VIRTIO_FRONT, path, State.Initialised, offer.num_queues
            )
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
        return Acceptance(accepted, tuple(rings), _reserved(found, path, grant_refs_max))

    def wrong_port(self, rings: QueueRings) -> PeerProtocolError:
        """See FrontLeg."""
        node = nodes.VirtioFront.QUEUE_EVENT_CHANNEL.path(self.peer_path, rings.index)
        return PeerProtocolError(node, str(rings.port), "an unbound port that the frontend made for the mediator")

    # ---- ring resets -----------------------------------------------------------------------------------------------

    def reset_counts(self, queue: int) -> tuple[int, int]:
        """See FrontLeg. `enable` is written with the rings: a larger `reset` was requested after that."""
        asked, enabled = (
            node.read(self._read, self.peer_path, queue) or 0
            for node in (nodes.VirtioFront.QUEUE_RESET, nodes.VirtioFront.QUEUE_ENABLE)
        )
        return asked, enabled

    def write_resets(self, done: Mapping[int, int]) -> None:
        """See FrontLeg."""
        node = nodes.VirtioBack.QUEUE_RESET_DONE
        publish(self._store, self.own_path, [(node, count, queue) for queue, count in done.items()])

    def read_ring(self, queue: int, size: int) -> QueueRings:
        """See FrontLeg."""
        front, path = nodes.VirtioFront, self.peer_path

        def work(transaction: Transaction) -> QueueRings:
            values = []
            for node in (
                front.QUEUE_SIZE,
                front.QUEUE_DESC,
                front.QUEUE_AVAIL,
                front.QUEUE_USED,
                front.QUEUE_EVENT_CHANNEL,
            ):
                value = node.read(reader_of_peer(transaction.read), path, queue)
                if value is None:
                    raise PeerProtocolError(node.path(path, queue), None, node.expected)
                values.append(value)
            return QueueRings(queue, *values)

        rings = self._store.in_transaction(work)
        if rings.size > size:
            raise PeerProtocolError(f"{path}/queue-{queue}/size", str(rings.size), f"at most {size}, its first size")
        return rings

    # ---- closing ---------------------------------------------------------------------------------------------------

    def held_pages(self, end_again: Callable[[], int], heads: Callable[[], Heads] | None) -> HeldPages:
        """See FrontLeg."""
        return HeldPages(self._store, self.own_path, self._log, end_again, heads)

    def stay_closing(self) -> None:
        """See FrontLeg."""
        rewrite(self._store, self.own_path, state=str(int(State.Closing)))

    def remove(self) -> None:
        """See FrontLeg."""
        withdraw(self._store, self.own_path)


def _reserved(found: Values, path: str, grant_refs_max: int) -> tuple[int, int] | None:
    front = nodes.VirtioFront
    first, count = found.get(front.GRANT_REFS_FIRST), found.get(front.GRANT_REFS_COUNT)
    if (first is None and count is None) or not grant_refs_max:
        return None
    if first is None or count is None:
        absent = front.GRANT_REFS_FIRST if first is None else front.GRANT_REFS_COUNT
        raise PeerProtocolError(absent.path(path), None, f"{absent.expected}, since the other of the two nodes exists")
    if first + count > grant_refs_max:
        expected = f"a run that ends below {grant_refs_max}, the end of the grant table (max_grant_frames)"
        raise PeerProtocolError(f"{path}/grant-refs-count", f"{count} from {first} on", expected)
    return first, count
