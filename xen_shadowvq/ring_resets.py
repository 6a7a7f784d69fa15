# SPDX-License-Identifier: GPL-2.0-or-later
"""Ring resets of one connection (VIRTIO_F_RING_RESET, virtio 2.6.1), queue by queue, as the frontend asks for them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from structlog.typing import FilteringBoundLogger

from xen_shadowvq.engine import Device, QueueRings
from xen_shadowvq.errors import DeviceBroken
from xen_shadowvq.legs import FrontLeg
from xen_shadowvq.pace import Backoff, Rate, earliest

_LONGEST_PAUSE_S = 0.1


class _Queue:
    """How far one queue has got."""

    def __init__(self, size: int, done: int) -> None:
        self.size = size  # a ring may come back smaller, not larger
        self.done = done  # the count in `reset-done`
        self.asked: int | None = None  # the count that is being carried out
        self.since_s = 0.0
        self.empty = False  # reset, and not enabled again yet


class RingResets:
    """
    What the frontend has asked for on a new connection, and how far that has got. Resets of an earlier connection are
    done.

    `look` and `advance` raise PeerProtocolError and DeviceBroken, after which the connection has to end. DeviceBroken
    also means that the backend did not return a queue's requests within `timeout_s`. XenStoreError: call again.
    """

    def __init__(
        self,
        front: FrontLeg,
        device: Device,
        rings: Sequence[QueueRings],
        rate: Rate,
        timeout_s: float,
        log: FilteringBoundLogger,
    ) -> None:
        self._front = front
        self._device = device
        self._log = log
        self._rate = rate
        self._timeout_s = timeout_s
        self._queues = {ring.index: _Queue(ring.size, front.reset_counts(ring.index)[1]) for ring in rings}
        self._pause = Backoff(longest_s=_LONGEST_PAUSE_S)
        front.write_resets({index: queue.done for index, queue in self._queues.items()})

    @property
    def due(self) -> float | None:
        """When to call `advance`: a queue's requests in flight have not ended yet, or a reset came too early."""
        return earliest((self._pause.due, self._rate.due))

    def look(self) -> None:
        """Takes up what the frontend has written."""
        self._rate.forget()
        for index, queue in self._queues.items():
            asked, enabled = self._front.reset_counts(index)
            if queue.asked is None and asked != queue.done and self._rate.take():
                queue.asked, queue.since_s = asked, time.monotonic()
                self._device.drain(index)
                self._pause.reset()
            elif queue.empty and asked == enabled == queue.done:
                self._device.restart_queue(self._front.read_ring(index, queue.size))
                queue.empty = False
        self._advance()

    def advance(self) -> None:
        """Completes resets whose queue has nothing in flight any more, and begins those that had to wait."""
        if self._rate.due is not None:
            self.look()
        else:
            self._advance()

    def _advance(self) -> None:
        under_way = [(index, queue) for index, queue in self._queues.items() if queue.asked is not None]
        if under_way:
            self._pause.fail()  # whatever goes wrong below
        for index, queue in under_way:
            if not queue.empty and not self._device.reset_queue(index):
                self._check_time(index, queue)
                continue
            queue.empty = True
            self._front.write_resets({index: queue.asked or 0})
            queue.done, queue.asked = queue.asked or 0, None
            self._log.info("queue_reset", queue=index)
        if all(queue.asked is None for _, queue in under_way):
            self._pause.reset()

    def _check_time(self, index: int, queue: _Queue) -> None:
        if time.monotonic() - queue.since_s > self._timeout_s:
            raise DeviceBroken("RESET_TIMEOUT", queue=index, expected=f"its requests back within {self._timeout_s:g} s")
