# SPDX-License-Identifier: GPL-2.0-or-later
"""Ring resets of one connection (VIRTIO_F_RING_RESET, virtio 2.6.1), queue by queue, as the frontend asks for them."""

from __future__ import annotations

from collections.abc import Iterable

from structlog.typing import FilteringBoundLogger

from xen_shadowvq import legs
from xen_shadowvq.engine import Device, QueueRings
from xen_shadowvq.publish import publish
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes


class RingResets:
    """
    What the frontend has asked for on its new `rings`, and how far it is. Resets of an earlier connection are done.

    `look` and `advance` raise PeerProtocolError and DeviceBroken, after which the connection has to end.
    """

    def __init__(
        self,
        store: XenStore,
        paths: tuple[str, str],
        device: Device,
        rings: Iterable[QueueRings],
        log: FilteringBoundLogger,
    ) -> None:
        """`paths`: of our directory on leg 1, and of the frontend's."""
        self._store = store
        self._path, self._front_path = paths
        self._device = device
        self._log = log
        self._sizes = {ring.index: ring.size for ring in rings}  # a ring may come back smaller, not larger
        self._asked: dict[int, int] = {}  # queue -> count that is being carried out
        self._done = {queue: self._count_asked(queue) for queue in self._sizes}
        self._stopped: set[int] = set()  # reset, and not enabled again yet
        done = nodes.VirtioBack.QUEUE_RESET_DONE
        publish(store, self._path, [(done, count, queue) for queue, count in self._done.items()])

    @property
    def busy(self) -> bool:
        """A queue's requests in flight have not ended yet: call `advance` soon."""
        return bool(self._asked)

    def look(self) -> None:
        """Takes up what the frontend has written."""
        for queue, done in list(self._done.items()):
            asked = self._count_asked(queue)
            if asked != done and queue not in self._asked:
                self._asked[queue] = asked
                self._device.drain(queue)
                self._advance(queue)
            elif done and asked == done:
                self._look_for_enable(queue, done)

    def advance(self) -> None:
        """Ends resets whose queue has nothing in flight any more."""
        for queue in list(self._asked):
            self._advance(queue)

    def _count_asked(self, queue: int) -> int:
        return nodes.VirtioFront.QUEUE_RESET.read(self._store.read, self._front_path, queue) or 0

    def _advance(self, queue: int) -> None:
        if not self._device.reset_queue(queue):
            return
        self._done[queue] = done = self._asked.pop(queue)
        self._stopped.add(queue)
        self._store.write(f"{self._path}/queue-{queue}/reset-done", str(done))
        self._log.info("queue_reset", queue=queue)

    def _look_for_enable(self, queue: int, done: int) -> None:
        enabled = nodes.VirtioFront.QUEUE_ENABLE.read(self._store.read, self._front_path, queue)
        if enabled == done and queue in self._stopped:
            self._device.restart_queue(legs.read_ring(self._store, self._front_path, queue, self._sizes[queue]))
            self._stopped.discard(queue)
