# SPDX-License-Identifier: GPL-2.0-or-later
"""One device of the backend: leg 2's offering side, and the block device behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dom0_backend.blk import BlkConfig, BlkDevice, Image, RingRefs
from xen_shadowvq import features
from xen_shadowvq.answer import Answer
from xen_shadowvq.errors import DeviceBroken, HypervisorError, ImageError, PeerProtocolError, ShadowVQError
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.log import RateLimited, get_logger
from xen_shadowvq.publish import publish, withdraw
from xen_shadowvq.service import Service, touches
from xen_shadowvq.side import Side, read_of_peer
from xen_shadowvq.xenbus import Action, Event, Phase, Role
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import State, nodes, read_directory

QUEUE_SIZE_MAX = 1024

complaints = RateLimited(interval_s=1.0)


@dataclass(frozen=True)
class BackendContext:
    """What all devices of a backend share."""

    store: XenStore
    hypervisor: Hypervisor
    domid: int


class BackendDevice:
    """Serves one image to one mediator. See xen_shadowvq.service.ServedDevice for the calls."""

    def __init__(self, context: BackendContext, mediator_domid: int, handle: int) -> None:
        self._context = context
        self._store = context.store
        self._mediator = mediator_domid
        self._handle = handle
        self.path = nodes.svq_back_path(backend=context.domid, mediator=mediator_domid, handle=handle)
        peer_path = nodes.svq_front_path(mediator=mediator_domid, handle=handle)
        self.side = Side(self._store, Role.BACK, self.path, peer_path, self._on_action)
        self._log = get_logger(domid=mediator_domid, device=handle)
        self._image: Image | None = None
        self.device: BlkDevice | None = None
        self._service: Service | None = None
        self._stats = Answer(self._store, self.path, nodes.SvqBack.STATS_REQUEST, nodes.SvqBack.STATS)
        self._resize = Answer(self._store, self.path, nodes.SvqBack.RESIZE_REQUEST, nodes.SvqBack.RESIZE)

    def serve_in(self, service: Service) -> None:
        """Whose loop is to hear of faults."""
        self._service = service

    @property
    def watched_roots(self) -> tuple[str, ...]:
        return (nodes.svq_front_root(mediator=self._mediator),)

    def concerns(self, path: str) -> bool:
        return touches(
            path, {self.side.peer_path: ("state",), self.path: ("online", "stats-request", "resize-request")}
        )

    @property
    def busy(self) -> bool:
        return False

    @property
    def gone(self) -> bool:
        return self.side.phase is Phase.GONE

    def begin(self) -> None:
        self.side.begin()
        self.look()

    def look(self) -> None:
        detached = self._store.read(f"{self.path}/online") == "0" or self._store.read(f"{self.path}/state") is None
        if detached:
            self.side.feed(Event.DETACH)
        self.side.look()
        if self.side.phase is Phase.CLOSED and read_of_peer(self._store, self.side.peer_state_path) is None:
            self.side.feed(Event.DETACH)  # the mediator took the pair away
        self._stats.look(self.status)
        self._resize.look(self._measure)

    def tick(self) -> None:
        return

    def check_fault(self) -> None:
        fault = self.device.fault() if self.device else None
        if fault is not None and self.side.phase is Phase.CONNECTED:
            self._complain(fault)
            self.side.feed(Event.FAULT)

    def release(self) -> None:
        self._disconnect()

    def status(self) -> dict[str, int]:
        """Counters of the device while it is connected, and of the service's use of the hypervisor."""
        return (self.device.stats() if self.device else {}) | self._context.hypervisor.counters()

    def _measure(self) -> dict[str, object]:
        """The image may have another size now: both the requests' check and the configuration space follow it."""
        if self._image is None:
            return {"error": "the device is not offered now"}
        back = nodes.SvqBack
        try:
            capacity_bytes = self._image.measure()
        except ImageError as error:
            return {"error": str(error)[:1024]}
        if self.device:
            self.device.set_capacity(capacity_bytes)
        config, _ = self._image.offer(back.NUM_QUEUES.read(self._store.read, self.path) or 1, QUEUE_SIZE_MAX)
        if config != back.CONFIG.read(self._store.read, self.path):
            generation = ((back.CONFIG_GENERATION.read(self._store.read, self.path) or 0) + 1) % (1 << 32)
            publish(self._store, self.path, [(back.CONFIG, config), (back.CONFIG_GENERATION, generation)])
            self._log.info("device_resized", bytes=capacity_bytes)
        return {"bytes": capacity_bytes}

    # ---- actions ---------------------------------------------------------------------------------------------------

    def _on_action(self, action: Action) -> Event | None:
        try:
            match action:
                case Action.OFFER:
                    self._offer()
                    return Event.OFFER_READY
                case Action.CONNECT:
                    self._connect()
                    return Event.CONNECT_DONE
                case Action.DISCONNECT:
                    self._disconnect()
                    return Event.STOPPED
                case Action.REMOVE:
                    withdraw(self._store, self.path)
                    self._log.info("device_removed")
        except (PeerProtocolError, HypervisorError, ImageError, DeviceBroken) as error:
            self._complain(error)
            return Event.FAULT
        return None

    def _offer(self) -> None:
        found = self._store.in_transaction(
            lambda t: read_directory(t.read, nodes.SVQ_BACK, self.path, State.Initialising)
        )
        back = nodes.SvqBack
        self._disconnect()
        self._image = Image(
            Path(found[back.PARAMS]), read_only=found[back.MODE] == "r", direct_io=found[back.DIRECT_IO]
        )
        queues = found[back.QUEUES]
        config, offered = self._image.offer(queues, QUEUE_SIZE_MAX)
        publish(
            self._store,
            self.path,
            [
                (back.VERSION, nodes.VERSION),
                (back.DEVICE_TYPE, features.DEVICE_TYPE_BLK),
                (back.FEATURES, offered),
                (back.CONFIG, config),
                (back.CONFIG_GENERATION, 0),
                (back.NUM_QUEUES, queues),
                (back.QUEUE_SIZE_MAX, QUEUE_SIZE_MAX),
            ],
        )
        self._store.rm(f"{self.path}/error")

    def _connect(self) -> None:
        if self._image is None:
            raise PeerProtocolError(self.side.peer_path, "Initialised", "no connection before the offer")
        peer = self.side.peer_path
        found = self._store.in_transaction(lambda t: read_directory(t.read, nodes.SVQ_FRONT, peer, State.Initialised))
        front = nodes.SvqFront
        serial = nodes.SvqBack.SERIAL.read(self._store.read, self.path) or f"shadowvq-{self._mediator}-{self._handle}"
        self.device = BlkDevice(
            self._context.hypervisor,
            self._image,
            BlkConfig(
                features=found[front.FEATURES_ACCEPTED],
                mediator_domid=self._mediator,
                window_owner=found[front.WINDOW_OWNER],
                window_first=found[front.WINDOW_FIRST],
                window_count=found[front.WINDOW_COUNT],
                queues=found[front.NUM_QUEUES],
                serial=serial,
            ),
        )
        for n in range(found[front.NUM_QUEUES]):
            self.device.attach(
                n,
                RingRefs(
                    found.at(front.QUEUE_SIZE, n),
                    found.pages(front.QUEUE_DESC_REF, n),
                    found.pages(front.QUEUE_AVAIL_REF, n),
                    found.pages(front.QUEUE_USED_REF, n),
                    found.at(front.QUEUE_EVENT_CHANNEL, n),
                ),
            )
        self.device.start()
        if self._service:
            self._service.on_readable(self.device.error_fd)
        self._log.info("device_connected", queues=found[front.NUM_QUEUES])

    def _disconnect(self) -> None:
        if self.device:
            if self._service:
                self._service.forget_fd(self.device.error_fd)
            self.device.close()
            self.device = None
        if self._image:
            self._image.close()
            self._image = None

    def _complain(self, error: ShadowVQError) -> None:
        complaints.warning(self._log, "device_broken", key=(self._mediator, self._handle), reason=str(error))
        if self._store.read(f"{self.path}/state") is not None:
            self._store.write(f"{self.path}/error", str(error)[:1024])
