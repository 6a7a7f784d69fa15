# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontend's side of leg 1 for the user-space driver: finds its device, sets up rings, connects, resets, closes."""

from __future__ import annotations

import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from domU_frontend.blk import BlkDriver
from xen_shadowvq import features
from xen_shadowvq.errors import ConfigError, PeerProtocolError
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.mediator import hypervisor_socket, own_domid, xenstore_socket
from xen_shadowvq.publish import Entry, publish
from xen_shadowvq.side import Side
from xen_shadowvq.xenbus import Action, Event, Phase, Role
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import State, nodes, read_directory

WANTED = features.REQUIRED | features.INDIRECT_DESC | features.EVENT_IDX | features.RING_RESET
BLK_WANTED = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 14


@dataclass(frozen=True)
class BlkGeometry:
    """What the configuration space says (virtio 5.2.4): data segments of one request, and bytes of one segment."""

    sectors: int
    size_max: int
    segments_max: int
    block_size: int

    @classmethod
    def parse(cls, config: bytes) -> BlkGeometry:
        """ValueError never: a short space leaves fields at 0."""
        padded = config.ljust(60, b"\0")
        sectors, size_max, segments_max = struct.unpack_from("<QII", padded)
        (block_size,) = struct.unpack_from("<I", padded, 20)
        return cls(sectors, size_max or 1 << 30, segments_max or 1, block_size or 512)


class Frontend:
    """
    A frontend domain with one virtio-blk device, as a context manager.

    Args:
        sim: None on real Xen; else the embedded machine's directory and the domid to be there.
        pages: pages of the domain's memory that the driver takes, from frame 0 on.
        accept: feature bits that the driver may accept at most.
    """

    def __init__(
        self,
        device: int,
        *,
        sim: tuple[Path, int] | None = None,
        pages: int = 16384,
        queues: int = 1,
        queue_size: int = 256,
        accept: int = WANTED | BLK_WANTED,
        poll_us: int = 50,
        first_gfn: int = 0,
        timeout_ms: int = 0,
    ) -> None:
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.store = stack.enter_context(XenStore.connect(str(xenstore_socket(*sim)) if sim else None))
            self.hypervisor = stack.enter_context(Hypervisor("driver", hypervisor_socket(*sim) if sim else None))
            self.domid = own_domid(self.store)
            self.hypervisor.set_domid(self.domid)
            self.path = nodes.virtio_front_path(frontend=self.domid, device=device)
            mediator = nodes.VirtioFront.BACKEND_ID.read(self.store.read, self.path)
            if mediator is None:
                raise ConfigError(f"{self.path}/backend-id: no such device; attach one with `shadowvq ctl attach`")
            self._peer = nodes.virtio_back_path(mediator=mediator, frontend=self.domid, device=device)
            self.driver = BlkDriver(
                self.hypervisor,
                mediator=mediator,
                pages=pages,
                queues=queues,
                queue_size=queue_size,
                features=accept,
                poll_us=poll_us,
                first_gfn=first_gfn,
                timeout_ms=timeout_ms,
            )
            stack.callback(self.driver.close)
            self._accept = accept
            self._queues = queues
            self._resets = [0] * queues
            self.features = 0
            self.config = b""
            self.side = Side(self.store, Role.FRONT, self.path, self._peer, self._on_action)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def geometry(self) -> BlkGeometry:
        """The disk, as the device describes it."""
        return BlkGeometry.parse(self.config)

    def connect(self, timeout_s: float = 10.0) -> None:
        """Goes through to Connected. ConfigError: it did not come to that; the mediator's own words are in it."""
        self.store.watch(self.side.peer_state_path, "peer")
        self.side.begin()
        self._run_until(lambda: self.side.phase is Phase.CONNECTED, timeout_s, "connected")

    def disconnect(self, timeout_s: float = 10.0) -> None:
        """Closes the device, and waits until nobody holds anything of ours."""
        self.side.feed(Event.FAULT)
        self._run_until(lambda: self.side.phase is Phase.CLOSED, timeout_s, "closed")
        self.store.unwatch(self.side.peer_state_path, "peer")

    def reconnect(self, timeout_s: float = 10.0) -> None:
        """A new round after `disconnect` or `wait_closed`."""
        self.store.watch(self.side.peer_state_path, "peer")
        self.side.feed(Event.REOPEN)
        self._run_until(lambda: self.side.phase is Phase.CONNECTED, timeout_s, "connected")

    def wait_closed(self, timeout_s: float = 10.0) -> None:
        """Waits until the mediator closed the device of its own accord, or went away."""
        self._run_until(lambda: self.side.phase is Phase.CLOSED, timeout_s, "closed")
        self.store.unwatch(self.side.peer_state_path, "peer")

    def reset_queue(self, queue: int, timeout_s: float = 10.0) -> None:
        """VIRTIO_F_RING_RESET: after it no request of the queue is alive, and it runs again, empty."""
        front, back = nodes.VirtioFront, nodes.VirtioBack
        self.driver.reset_prepare(queue)
        self._resets[queue] += 1
        publish(self.store, self.path, [(front.QUEUE_RESET, self._resets[queue], queue)])
        self._run_until(
            lambda: back.QUEUE_RESET_DONE.read(self.store.read, self._peer, queue) == self._resets[queue],
            timeout_s,
            "reset",
        )
        self.driver.rearm(queue)
        publish(self.store, self.path, [*self._ring_entries(queue), (front.QUEUE_ENABLE, self._resets[queue], queue)])

    def _on_action(self, action: Action) -> Event | None:
        if action is Action.SETUP:
            return self._set_up()
        if action is Action.STOP:
            return Event.STOPPED
        return None

    def _set_up(self) -> Event:
        try:
            found = self.store.in_transaction(
                lambda t: read_directory(t.read, nodes.VIRTIO_BACK, self._peer, State.InitWait)
            )
        except PeerProtocolError:
            return Event.FAULT
        back, front = nodes.VirtioBack, nodes.VirtioFront
        self.features = found[back.FEATURES] & self._accept
        self.config = found[back.CONFIG]
        self.driver.start(self.features)
        entries: list[Entry] = [(front.FEATURES_ACCEPTED, self.features), (front.NUM_QUEUES, self._queues)]
        self._resets = [0] * self._queues
        for queue in range(self._queues):
            entries += [*self._ring_entries(queue), (front.QUEUE_RESET, 0, queue), (front.QUEUE_ENABLE, 0, queue)]
        publish(self.store, self.path, entries)
        return Event.SETUP_DONE

    def _ring_entries(self, queue: int) -> list[Entry]:
        front, at = nodes.VirtioFront, self.driver.addresses(queue)
        return [
            (front.QUEUE_SIZE, at.size, queue),
            (front.QUEUE_DESC, at.desc, queue),
            (front.QUEUE_AVAIL, at.avail, queue),
            (front.QUEUE_USED, at.used, queue),
            (front.QUEUE_EVENT_CHANNEL, at.port, queue),
        ]

    def _run_until(self, done: object, timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():  # type: ignore[operator]
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms <= 0:
                error = self.store.read(f"{self._peer}/error") or "no error was given"
                raise ConfigError(f"{self.path} was not {what} within {timeout_s:g} s; the mediator says: {error}")
            self.store.next_event(min(left_ms, 50))
            self.side.look()
