# SPDX-License-Identifier: GPL-2.0-or-later
"""What the mediator tells of one device's queues to whoever looks for a stuck request."""

from __future__ import annotations

import time

from xen_shadowvq.answer import Answer
from xen_shadowvq.engine import Device
from xen_shadowvq.trace import HEADS_SHOWN, QueueTrace, TraceEvent
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes

_INDICES = 1 << 16
_NONE = 0xFFFF
_AS_THEY_ARE = "parts", "granted", "copied", "pages", "bytes", "used_length"


class Tracing:
    """
    Answers `trace-request` in the directory `path`. While there is a connection, from its queues; after it, with what
    they had told at its end: a chain that broke the device is seen there.
    """

    def __init__(self, store: XenStore, path: str) -> None:
        self._store = store
        self._path = path
        self._answer = Answer(store, path, nodes.VirtioBack.TRACE_REQUEST, nodes.VirtioBack.TRACE)
        self._every = 0
        self._device: Device | None = None
        self._past: list[QueueTrace] = []

    @property
    def due(self) -> float | None:
        """When to call `look` without any news."""
        return self._answer.rate.due

    def connected(self, device: Device) -> None:
        """From now on it is this one's queues."""
        self._device = device
        self._trace_every(self._every)

    def ending(self) -> None:
        """The device is about to be freed."""
        if self._device is not None:
            self._past = [_read(self._device, n, self._every, "ended") for n in range(self._device.num_queues)]
            self._device = None

    def look(self) -> None:
        """Answers a new request, if there is one."""
        self._answer.look(self._report)

    def _report(self) -> dict[str, object]:
        back = nodes.VirtioBack
        every = back.TRACE_EVERY.read(self._store.read, self._path)
        if every is not None and every != self._every:
            self._trace_every(every)
        queue = back.TRACE_QUEUE.read(self._store.read, self._path) or 0
        return self._trace_of(queue).packed()

    def _trace_every(self, every: int) -> None:
        self._every = every
        if self._device is not None:
            for n in range(self._device.num_queues):
                self._device.trace_every(n, every)

    def _trace_of(self, queue: int) -> QueueTrace:
        if self._device is not None and queue < self._device.num_queues:
            return _read(self._device, queue, self._every, "live")
        if self._device is None and queue < len(self._past):
            return self._past[queue]
        queues = self._device.num_queues if self._device else len(self._past)
        return QueueTrace(queue=queue, queues=queues, connection="none", every=self._every)


def _read(device: Device, queue: int, every: int, connection: str) -> QueueTrace:
    at = device.snapshot(queue)
    now_ns = time.monotonic_ns()
    events = tuple(
        TraceEvent(
            number=one["number"],
            age_us=max(0, now_ns - one["time_ns"]) // 1000,
            event=device.name_of_event(one["event"]),
            head=None if one["head"] == _NONE else one["head"],
            code=device.name_of_error(one["code"]) if one["code"] else None,
            **{name: one[name] for name in _AS_THEY_ARE},
        )
        for one in device.trace(queue)
    )
    heads = tuple(head for head in range(at.size) if at.live[head // 8] >> head % 8 & 1)
    return QueueTrace(
        queue=queue,
        queues=device.num_queues,
        connection=connection,
        every=every,
        state=device.name_of_state(at.state),
        parked=bool(at.parked),
        in_flight=at.in_flight,
        heads=heads[:HEADS_SHOWN],
        available=(at.untrusted_avail_idx - at.taken_idx) % _INDICES,
        used=(at.untrusted_used_idx - at.completed_idx) % _INDICES,
        events=events,
    )
