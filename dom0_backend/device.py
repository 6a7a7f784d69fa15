# SPDX-License-Identifier: GPL-2.0-or-later
"""One device of the backend: leg 2's offering side, and the block device behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from dom0_backend.blk import BlkConfig, BlkDevice, Image, RingRefs
from dom0_backend.chores import Chores, Then
from dom0_backend.context import BackendContext
from xen_shadowvq import features
from xen_shadowvq.answer import Answer
from xen_shadowvq.errors import (
    XENSTORE_TROUBLE,
    DeviceBroken,
    HypervisorError,
    ImageError,
    PeerProtocolError,
    ShadowVQError,
)
from xen_shadowvq.life import Life
from xen_shadowvq.log import RateLimited, get_logger
from xen_shadowvq.native import constants
from xen_shadowvq.output import node_text
from xen_shadowvq.pace import Backoff, Rounds, earliest
from xen_shadowvq.publish import publish, rewrite, withdraw
from xen_shadowvq.quotas import reason_of
from xen_shadowvq.service import Service, touches
from xen_shadowvq.side import TRIES_MAX, Side, read_of_peer
from xen_shadowvq.xenbus import Action, Event, Phase, Role
from xenstore_schema import State, nodes, read_directory
from xenstore_schema.spec import Values, split_ring_refs

ROUNDS = 10, 2.0
PAUSES_S = 0.05, 10.0
"""Before the next try after a failure: an image that is missing, a mediator whose rings cannot be had."""

HANG_S = 8.0
"""How long the storage may take for one thing before we report that it does not answer."""

ANSWER_TEXT_BYTES = 960
"""Of a sentence in an answer: JSON writes some characters as two, and the node has room for 2048."""

_FLUSH_FAILED = (
    "a flush of the image has failed, so what the guest wrote before may be lost: every further one fails until the "
    "image has been checked, and detached and attached again"
)
complaints = RateLimited(interval_s=1.0)


T = TypeVar("T")


def _measure(image: Image, device: BlkDevice | None) -> int:
    size = image.measure()
    if device:
        device.set_capacity(size)
    return size


def _raise_defect(result: object) -> None:
    if isinstance(result, Exception):
        raise result


def _queue_size_max() -> int:
    return int(constants("backend").SVQ_BE_QUEUE_SIZE_MAX)


class BackendDevice:
    """
    Serves one image to one mediator. See xen_shadowvq.service.ServedDevice for the calls.

    Whatever may wait for the image's storage (opening and measuring it, the end of requests in flight, closing it) is
    done on the device's own thread: if the storage has died, this device waits, and the loop does not.
    """

    def __init__(self, context: BackendContext, mediator_domid: int, handle: int) -> None:
        self._context = context
        self._store = context.store
        self._mediator = mediator_domid
        self._handle = handle
        self.path = nodes.svq_back_path(backend=context.domid, mediator=mediator_domid, handle=handle)
        peer_path = nodes.svq_front_path(mediator=mediator_domid, handle=handle)
        self._rounds = Rounds(*ROUNDS, *PAUSES_S)
        # The directory of all its devices goes with its domain.
        mediator = Life(self._store, mediator_domid, nodes.svq_front_root(mediator=mediator_domid))
        act, complain, lives = self._on_action, self._complain, mediator.goes_on
        self.side = Side(self._store, Role.BACK, self.path, peer_path, act, complain, self._rounds, lives)
        self._log = get_logger(domid=mediator_domid, device=handle)
        self._chores = Chores(f"svq-image-{mediator_domid}-{handle}", context.alert)
        self._round = 0  # what was begun in an earlier one has been cancelled
        self._open_image: Image | None = None  # the thread's; closed by it
        self._image: Image | None = None  # the same, while it may be used
        self._image_path = ""
        self._size: int | ImageError | None = None  # what was measured
        self._measured_for: int | None = None  # the request that it was, or is being, measured for
        self._hangs_from: float | None = None  # when what the thread does has taken too long
        self._hang_told = False
        self._winding_down = False
        self._frontend: int | None = None  # as dom0 says
        self._begun = False
        self._flush_failed = False  # ever since the device was attached
        self._flush_told = False  # in XenStore
        self.device: BlkDevice | None = None
        self._service: Service | None = None
        self._again = Backoff()  # for all that XenStore refuses beside the steps of the side
        self._stats = Answer(self._store, self.path, nodes.SvqBack.STATS_REQUEST, nodes.SvqBack.STATS)
        self._resize = Answer(self._store, self.path, nodes.SvqBack.RESIZE_REQUEST, nodes.SvqBack.RESIZE)

    @property
    def name(self) -> str:
        """For messages."""
        whose = "" if self._frontend is None else f", a disk of domain {self._frontend}"
        return f"handle {self._handle} of mediator {self._mediator}{whose}"

    @property
    def uses_image(self) -> bool:
        """Whether it uses its image; else it is closing what it may still have open."""
        return self._image is not None

    def serve_in(self, service: Service) -> None:
        """Sets the service whose loop hears of faults."""
        self._service = service

    @property
    def watched_roots(self) -> tuple[str, ...]:
        return (nodes.svq_front_root(mediator=self._mediator),)

    def concerns(self, path: str) -> bool:
        return touches(
            path, {self.side.peer_path: ("state",), self.path: ("online", "stats-request", "resize-request")}
        )

    @property
    def due(self) -> float | None:
        times = (self._again.due, self.side.due, self._stats.rate.due, self._resize.rate.due)
        return earliest((*times, None if self._hang_told else self._hangs_from))

    @property
    def gone(self) -> bool:
        return self.side.is_over

    def begin(self) -> None:
        self.look()

    def look(self, *, domain_died: bool = False) -> None:
        del domain_died
        self._again.fail()  # whatever goes wrong below
        try:
            self._take_up()
            self._chores.settle()
            self._tell_hang()
            detached = self._store.read(f"{self.path}/online") == "0" or self._store.read(f"{self.path}/state") is None
            if detached:
                self.side.feed(Event.DETACH)
            self.side.look()
            if self.side.phase is Phase.CLOSED and read_of_peer(self._store, self.side.peer_state_path) is None:
                self.side.feed(Event.DETACH)  # the mediator took the pair away
            self._tell_flush()
            self._stats.look(self.status)
            self._resize.look(self._resized)
        except XENSTORE_TROUBLE as error:
            reason = reason_of(error, self.path)
            complaints.warning(self._log, "device_waits", key=(self._mediator, self._handle), reason=reason)
            return
        self._again.reset()

    def _take_up(self) -> None:
        """Begins, once, with what earlier services left."""
        if self._begun:
            return
        self._flush_failed = self._flush_told = nodes.SvqBack.FLUSH_FAILED.read(self._store.read, self.path) or False
        self._begun = True
        self.side.begin()

    def tick(self) -> None:
        self.look()

    def check_fault(self) -> None:
        news = not self._flush_told and self._image is not None and self._image.flush_failed
        if news or self._chores.settled:
            self.look()
        fault = self.device.fault() if self.device else None
        if fault is not None and self.side.phase is Phase.CONNECTED:
            try:
                self._complain(fault)
            finally:
                self.side.feed(Event.FAULT)

    def _tell_flush(self) -> None:
        """
        Reports a failed flush, which is remembered while the device is attached, also by the services after this one.
        """
        if self._image is not None and self._image.flush_failed:
            self._flush_failed = True
        if not self._flush_failed or self._flush_told:
            return
        back = nodes.SvqBack
        if publish(self._store, self.path, [(back.FLUSH_FAILED, True), (back.ERROR, _FLUSH_FAILED)]):
            self._flush_told = True
            self._log.error("image_flush_failed", reason=_FLUSH_FAILED)

    def _tell_hang(self) -> None:
        """Reports that the storage does not answer, and withdraws that once it does."""
        path, error = f"{self.path}/error", ImageError(self._image_path, "the storage of this image does not answer")
        if not self._chores.busy:
            if self._hang_told and self._store.read(path) == node_text(str(error)):
                rewrite(self._store, self.path, error="")
            self._hangs_from, self._hang_told = None, False
        elif self._hangs_from is not None and not self._hang_told and time.monotonic() >= self._hangs_from:
            self._complain(error)
            self._hang_told = True

    def _do(self, work: Callable[[], T], then: Then[T]) -> None:
        if not self._chores.busy:
            self._hangs_from = time.monotonic() + HANG_S
        self._chores.do(work, then)

    def wind_down(self) -> bool:
        if not self._winding_down:
            self._winding_down = True
            self._begin_close()
        return not self._chores.busy

    def release(self) -> None:
        self.wind_down()

    def status(self) -> dict[str, int]:
        """Counters of the device while it is connected, and of the service's use of the hypervisor."""
        return (self.device.stats() if self.device else {}) | self._context.hypervisor.counters()

    def _resized(self) -> dict[str, object] | None:
        """The image may have another size now: both the requests' check and the configuration space follow it."""
        if self._image is None:
            return {"error": "the backend does not offer the device now"}
        if self._measured_for != self._resize.asked:
            self._size, self._measured_for = None, self._resize.asked
            then = partial(self._measured, self._round, self._resize.asked, self.device)
            self._do(partial(_measure, self._image, self.device), then)
        if self._size is None:
            return None
        if isinstance(self._size, ImageError):
            return {"error": node_text(str(self._size), ANSWER_TEXT_BYTES)}
        self._publish_size(self._image, self._size)
        return {"bytes": self._size}

    def _measured(self, of_round: int, asked: int | None, device: BlkDevice | None, result: int | Exception) -> None:
        if (of_round, asked) != (self._round, self._measured_for):
            return
        if not isinstance(result, int | ImageError):
            raise result
        if device is self.device:
            self._size = result
        else:
            self._measured_for = None  # once more: this device was made with the old size

    def _publish_size(self, image: Image, capacity_bytes: int) -> None:
        back = nodes.SvqBack
        config, _ = image.offer(back.NUM_QUEUES.read(self._store.read, self.path) or 1, _queue_size_max())
        if config != back.CONFIG.read(self._store.read, self.path):
            generation = ((back.CONFIG_GENERATION.read(self._store.read, self.path) or 0) + 1) % (1 << 32)
            publish(self._store, self.path, [(back.CONFIG, config), (back.CONFIG_GENERATION, generation)])
            self._log.info("device_resized", bytes=capacity_bytes)

    # ---- actions ---------------------------------------------------------------------------------------------------

    def _on_action(self, action: Action) -> Event | None:
        try:
            match action:
                case Action.OFFER:
                    self._offer()
                case Action.CONNECT:
                    self._connect()
                    self._rounds.pause.reset()
                    return Event.CONNECT_DONE
                case Action.DISCONNECT:
                    self._begin_close()
                    if not self._chores.busy:
                        return Event.STOPPED
                    self._do(lambda: None, lambda _: self.side.feed(Event.STOPPED))
                case Action.REMOVE:
                    withdraw(self._store, self.path)
                    self._log.info("device_removed")
        except (PeerProtocolError, HypervisorError, ImageError, DeviceBroken) as error:
            self._fail(error)
            return Event.FAULT
        return None

    def _offer(self) -> None:
        found = self._store.in_transaction(
            lambda t: read_directory(t.read, nodes.SVQ_BACK, self.path, State.Initialising)
        )
        self._image_path, self._frontend = found[nodes.SvqBack.PARAMS], found[nodes.SvqBack.WINDOW_OWNER]
        self._do(partial(self._open, found), partial(self._opened, self._round, found[nodes.SvqBack.QUEUES]))

    def _opened(self, of_round: int, queues: int, result: Image | Exception) -> None:
        if of_round != self._round:
            return
        if isinstance(result, ImageError):
            self._fail(result)
            self.side.feed(Event.FAULT)
            return
        if isinstance(result, Exception):
            self.side.feed(Event.FAULT)
            raise result
        try:
            self._publish_offer(result, queues)
        except XENSTORE_TROUBLE as error:
            if self._again.failures < TRIES_MAX:
                raise  # and it is tried again
            self._fail(error)
            self.side.feed(Event.FAULT)
            return
        self._image = result
        self.side.feed(Event.OFFER_READY)

    def _publish_offer(self, image: Image, queues: int) -> None:
        back = nodes.SvqBack
        config, offered = image.offer(queues, _queue_size_max())
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
                (back.QUEUE_SIZE_MAX, _queue_size_max()),
                (back.ERROR, _FLUSH_FAILED if self._flush_failed else ""),
            ],
        )

    def _open(self, found: Values) -> Image:
        """Runs on the thread."""
        image = self._open_image = self._context.open(self, found, flush_failed=self._flush_failed)
        return image

    def _connect(self) -> None:
        if self._image is None or self._frontend is None:
            raise PeerProtocolError(self.side.peer_path, "Initialised", "no connection before the offer")
        peer = self.side.peer_path
        found = self._store.in_transaction(lambda t: read_directory(t.read, nodes.SVQ_FRONT, peer, State.Initialised))
        front, queues = nodes.SvqFront, found[nodes.SvqFront.NUM_QUEUES]
        offered = nodes.SvqBack.NUM_QUEUES.read(self._store.read, self.path) or 0
        if queues > offered:
            raise PeerProtocolError(front.NUM_QUEUES.path(peer), str(queues), f"at most the {offered} that are offered")
        serial = nodes.SvqBack.SERIAL.read(self._store.read, self.path) or f"shadowvq-{self._mediator}-{self._handle}"
        self.device = BlkDevice(
            self._context.hypervisor,
            self._image,
            BlkConfig(
                features=found[front.FEATURES_ACCEPTED],
                mediator_domid=self._mediator,
                window_owner=self._frontend,
                window_first=found[front.WINDOW_FIRST],
                window_count=found[front.WINDOW_COUNT],
                queues=queues,
                serial=serial,
                copy_pages=self._context.config.copy_pages,
            ),
        )
        for n in range(queues):
            size, refs = found.at(front.QUEUE_SIZE, n), found.at(front.QUEUE_RING_REFS, n)
            parts = split_ring_refs(refs, size)
            if parts is None:
                text, path = front.QUEUE_RING_REFS.format(refs), front.QUEUE_RING_REFS.path(peer, n)
                raise PeerProtocolError(path, text, f"a reference for each page of a ring of {size} descriptors")
            self.device.attach(n, RingRefs(size, *parts, found.at(front.QUEUE_EVENT_CHANNEL, n)))
        self._context.tell_grant_copy(self.device)
        self.device.start()
        if self._service:
            self._service.on_readable(self.device.error_fd)
        self._log.info("device_connected", queues=queues)

    def _begin_close(self) -> None:
        """Cancels what is under way, and then has the thread close what is open."""
        device, self.device, self._image = self.device, None, None
        self._round += 1
        self._size = self._measured_for = None
        if device and self._service:
            self._service.forget_fd(device.error_fd)
        if device or self._open_image or self._chores.busy:
            self._do(partial(self._close, device), _raise_defect)

    def _close(self, device: BlkDevice | None) -> None:
        """Runs on the thread."""
        if device:
            device.close()
        image, self._open_image = self._open_image, None
        if image:
            self._flush_failed = self._flush_failed or image.flush_failed
            image.close()
            del self._context.images[image]

    def _fail(self, error: ShadowVQError) -> None:
        """This round has failed."""
        self._rounds.pause.fail()
        self._complain(error, again_in_s=self._rounds.pause.length_s)

    def _complain(self, error: ShadowVQError, **facts: object) -> None:
        reason = reason_of(error, self.path)
        complaints.warning(self._log, "device_broken", key=(self._mediator, self._handle), reason=reason, **facts)
        rewrite(self._store, self.path, error=reason)
