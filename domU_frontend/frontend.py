# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontend's side of leg 1 for the user-space driver: finds its device, sets up rings, connects, resets, closes."""

from __future__ import annotations

import contextlib
import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Self

from domU_frontend.blk import BlkDriver
from domU_frontend.ledger import Ledger, ledger_path
from xen_shadowvq import features
from xen_shadowvq.domain import OwnDomain, Sim
from xen_shadowvq.errors import ConfigError, PeerProtocolError
from xen_shadowvq.publish import Entry, publish
from xen_shadowvq.side import Side, read_of_peer
from xen_shadowvq.xenbus import Action, Event, Phase, Role
from xenstore_schema import State, nodes, read_directory

WANTED = features.REQUIRED | features.INDIRECT_DESC | features.EVENT_IDX | features.RING_RESET
BLK_WANTED = features.blk("SIZE_MAX", "SEG_MAX", "RO", "BLK_SIZE", "FLUSH", "MQ", "DISCARD", "WRITE_ZEROES")

_CLOSING, _CLOSED = str(int(State.Closing)), str(int(State.Closed))


@dataclass(frozen=True)
class BlkGeometry:
    """What the configuration space says (virtio 5.2.4): data segments of one request, and bytes of one segment."""

    sectors: int
    size_max: int
    segments_max: int
    block_size: int

    @classmethod
    def parse(cls, config: bytes) -> BlkGeometry:
        """Never fails: in a space that is too short, missing fields count as 0."""
        padded = config.ljust(60, b"\0")
        sectors, size_max, segments_max = struct.unpack_from("<QII", padded)
        (block_size,) = struct.unpack_from("<I", padded, 20)
        return cls(sectors, size_max or 1 << 30, segments_max or 1, block_size or 512)


class Frontend:
    """
    A frontend domain with one virtio-blk device, as a context manager.

    Args:
        sim: None on real Xen; else the embedded machine's directory, where the driver then keeps its ledger for whoever
            audits the machine, and the id of our own domain.
        pages: pages of the domain's memory that the driver takes, from frame 0 on.
        accept: feature bits that the driver may accept at most.
    """

    def __init__(
        self,
        device: int,
        *,
        sim: Sim | None = None,
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
            domain = stack.enter_context(OwnDomain("driver", sim))
            self.store, self.hypervisor, self.domid = domain.store, domain.hypervisor, domain.domid
            self.path = nodes.virtio_front_path(frontend=self.domid, device=device)
            mediator = nodes.VirtioFront.BACKEND_ID.read(self.store.read, self.path)
            if mediator is None:
                raise ConfigError(f"{self.path}/backend-id: no such device; attach one with `shadowvq ctl attach`")
            self._peer = nodes.virtio_back_path(mediator=mediator, frontend=self.domid, device=device)
            self._record = nodes.virtio_record_path(frontend=self.domid, device=device)
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
                ledger=self._make_ledger(sim, device, pages),
            )
            stack.callback(self.driver.close)
            self._accept = accept
            self._queues = queues
            self._resets = [0] * queues
            self.features = 0
            self.config = b""
            self._swept_before = 0
            self._was_closed = True  # nobody has anything of ours
            self._knows = True  # that all is back; the driver's ledger then says so
            self._held_pages = 0
            self._watches = False
            self.side = Side(self.store, Role.FRONT, self.path, self._peer, self._on_action, lambda _: None)
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
        """Connects, up to Connected. ConfigError: that failed; the message has the mediator's own words."""
        self._watch_peer()
        self.side.begin()
        self._run_until(lambda: self.side.phase is Phase.CONNECTED, timeout_s, "connected")

    def disconnect(self, timeout_s: float = 10.0) -> None:
        """
        Closes the device, and waits until nobody holds anything of ours. ConfigError: somebody may still hold
        something.
        """
        self.side.feed(Event.FAULT)
        self._finish_close(timeout_s)

    def reconnect(self, timeout_s: float = 10.0) -> None:
        """Begins a new round after `disconnect` or `wait_closed`, or after a round that did not reach Connected."""
        self._watch_peer()
        self.side.feed(Event.REOPEN)
        self._run_until(lambda: self.side.phase is Phase.CONNECTED, timeout_s, "connected")

    def _watch_peer(self) -> None:
        if not self._watches:
            self.store.watch(self.side.peer_state_path, "peer")
            self._watches = True

    def wait_closed(self, timeout_s: float = 10.0) -> None:
        """
        Waits until the mediator has closed the device of its own accord. A mediator that goes away closes nothing: then
        dom0 has to say that all has been taken back. ConfigError as from `disconnect`.
        """
        self._finish_close(timeout_s)

    def wait_held(self, at_most: int, timeout_s: float = 10.0) -> int:
        """
        Waits until the mediator is Closing with pages held, and then for some time until at most that many are held;
        returns how many. 0: it has closed the device, and says that none is held.
        """
        self._run_until(lambda: self._held_pages or self.has_all_back, timeout_s, "Closing")
        with contextlib.suppress(ConfigError):
            self._run_until(lambda: self._held_pages <= at_most, timeout_s / 4, "rid of other held pages")
        return self._held_pages

    def _finish_close(self, timeout_s: float) -> None:
        self._run_until(lambda: self.side.phase is Phase.CLOSED and self.has_all_back, timeout_s, "closed")
        self._see_what_is_back()
        self.store.unwatch(self.side.peer_state_path, "peer")
        self._watches = False

    @property
    def has_all_back(self) -> bool:
        """Whether it is certain that nobody can reach a buffer of the last connection any more."""
        return self._was_closed or self._swept() > self._swept_before

    def _swept(self) -> int:
        return nodes.VirtioRecord.SWEPT.read(self.store.read, self._record) or 0

    def reset_queue(self, queue: int, timeout_s: float = 10.0) -> None:
        """VIRTIO_F_RING_RESET: afterwards no request of the queue is alive, and it runs again, empty."""
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
        self._swept_before, self._was_closed, self._knows = self._swept(), False, False
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
                error = read_of_peer(self.store, f"{self._peer}/error") or "no error was given"
                raise ConfigError(f"{self.path} was not {what} within {timeout_s:g} s; the mediator says: {error}")
            self.store.next_event(min(left_ms, 50))
            if read_of_peer(self.store, self.side.peer_state_path) == _CLOSED:
                self._was_closed = True
            self.side.look()
            self._see_what_is_back()

    def _see_what_is_back(self) -> None:
        """Notes in the ledger what is certain to be ours again."""
        back, read = nodes.VirtioBack, partial(read_of_peer, self.store)
        closing = self.side.untrusted_peer_state == _CLOSING
        self._held_pages = (back.HELD_PAGES.read(read, self._peer) or 0) if closing else 0
        if self.has_all_back:
            if not self._knows:
                self._knows = True
                self.driver.take_back("CLOSED" if self._was_closed else "SWEPT")
        elif self._held_pages:
            for queue in range(self._queues):
                held = back.QUEUE_HELD.read(read, self._peer, queue)
                if held is not None:  # else any of them may be held
                    self.driver.not_held(queue, held)

    def _make_ledger(self, sim: Sim | None, device: int, pages: int) -> Ledger:
        return Ledger.create(ledger_path(sim[0], self.domid, device), pages) if sim else Ledger.private(pages)
