# SPDX-License-Identifier: GPL-2.0-or-later
"""
Every node and directory, typed: a class of nodes and a table for each directory, and their paths.

Generated from nodes.yaml by `python -m xenstore_schema.generate`; do not edit.
"""

from __future__ import annotations

from typing import Any, Final

from xenstore_schema.spec import Directory, Node, State

VERSION: Final = 1  # of the protocol


class VirtioBack:
    """Leg 1, the mediator's side. /local/domain/{mediator}/backend/virtio/{frontend}/{device}"""

    FRONTEND: Final[Node[str]] = Node("virtio.back", "frontend", "path", "toolstack", required_from=State.Initialising)
    """Path of the frontend's directory."""
    FRONTEND_ID: Final[Node[int]] = Node(
        "virtio.back", "frontend-id", "domid", "toolstack", required_from=State.Initialising
    )
    """Domain id of the frontend. The mediator trusts it because only the toolstack can write it."""
    ONLINE: Final[Node[bool]] = Node("virtio.back", "online", "bool", "toolstack", default="1")
    """0 asks the mediator to close the device and not to offer it again (detach)."""
    STATE: Final[Node[State]] = Node(
        "virtio.back", "state", "state", "mediator", required_from=State.Initialising, initial="1"
    )
    """XenBus state of the mediator's side; created by the toolstack."""
    SVQ_HANDLE: Final[Node[int]] = Node(
        "virtio.back", "svq-handle", "u32", "toolstack", required_from=State.Initialising
    )
    """The {handle} of the leg 2 pair that carries this device."""
    FRONTEND_MEMORY: Final[Node[int]] = Node(
        "virtio.back", "frontend-memory", "u64", "toolstack", required_from=State.Initialising, min=4, unit="KiB"
    )
    """The most memory that the frontend can have (its memory/static-max, which only dom0 and the frontend may
    read)."""
    FRONTEND_BALLOONS: Final[Node[bool]] = Node("virtio.back", "frontend-balloons", "bool", "toolstack", default="0")
    """1: the frontend's memory/target was below its maximum when the device was attached, so the pages behind its
    frames may change."""
    GRANT_MARK: Final[Node[int]] = Node(
        "virtio.back", "grant-mark", "u8", "toolstack", required_from=State.Initialising, min=1, max=127
    )
    """Mark (flag bits 9 to 15) of the grant entries that are made for this device. No other device of the frontend
    has that mark, whoever mediates it."""
    QUEUES: Final[Node[int]] = Node("virtio.back", "queues", "u16", "toolstack", default="64", min=1, max=64)
    """Queues that the device was attached with: no more are offered, whatever the backend says."""
    PLACEMENT: Final[Node[str]] = Node(
        "virtio.back", "placement", "choice", "toolstack", choices=("exact", "page", "copy")
    )
    """How segments reach the backend. Absent: the mediator's configuration decides."""
    COPY_THRESHOLD: Final[Node[int]] = Node("virtio.back", "copy-threshold", "u32", "toolstack", max=8192, unit="bytes")
    """With placement exact: whole-page parts shorter than this are copied as well. Absent: the mediator's
    configuration decides."""
    VERSION: Final[Node[int]] = Node("virtio.back", "version", "u16", "mediator", required_from=State.InitWait, min=1)
    """Version of this protocol that the mediator speaks."""
    DEVICE_TYPE: Final[Node[int]] = Node(
        "virtio.back", "device-type", "u16", "mediator", required_from=State.InitWait, min=1, max=63
    )
    """Virtio device type (virtio 5); 2 is a block device."""
    FEATURES: Final[Node[int]] = Node("virtio.back", "features", "u64", "mediator", required_from=State.InitWait)
    """Feature bits offered: what the backend offers, as far as the mediator lets it through, and the mediator's own
    ring features."""
    CONFIG: Final[Node[bytes]] = Node(
        "virtio.back", "config", "hex", "mediator", required_from=State.InitWait, max_bytes=256
    )
    """The device configuration space (virtio 2.5)."""
    CONFIG_GENERATION: Final[Node[int]] = Node(
        "virtio.back", "config-generation", "u32", "mediator", required_from=State.InitWait, initial="0"
    )
    """Grows by one with each change of `config` (virtio 2.5.1); written after it."""
    NUM_QUEUES: Final[Node[int]] = Node(
        "virtio.back", "num-queues", "u16", "mediator", required_from=State.InitWait, min=1, max=64
    )
    """Queues that the device has."""
    QUEUE_SIZE_MAX: Final[Node[int]] = Node(
        "virtio.back", "queue-size-max", "u16", "mediator", required_from=State.InitWait, min=4, max=1024
    )
    """Largest ring size, a power of two."""
    GRANT_REFS_WANTED: Final[Node[int]] = Node(
        "virtio.back", "grant-refs-wanted", "u32", "mediator", default="0", initial="0"
    )
    """Grant references that the frontend is asked to reserve for the mediator in its own allocator (`grant-refs-
    first`). Fewer will do."""
    CLOSE_TIMEOUT_MS: Final[Node[int]] = Node(
        "virtio.back",
        "close-timeout-ms",
        "u32",
        "mediator",
        default="10000",
        min=10,
        max=3600000,
        initial="10000",
        unit="ms",
    )
    """How long closing the device, or resetting a queue, may take before its frontend should say in its log that
    the mediator is late. It does not allow the frontend to use anything again."""
    QUEUE_HELD: Final[Node[bytes]] = Node("virtio.back", "queue-{n}/held", "hex", "mediator", max_bytes=128)
    """While the device is Closing: the requests with pages that the backend still has mapped; bit h % 8 of byte h /
    8 is set for the one with head h. All other requests of this queue have ended, and the mediator no longer
    touches its ring. Written before `held-pages`, as zeros if there are none. If it is absent while `held-pages` is
    not 0, any request may have such pages."""
    HELD_PAGES: Final[Node[int]] = Node("virtio.back", "held-pages", "u32", "mediator", default="0", initial="0")
    """Pages of ended requests that the backend still has mapped. Until it is 0, the device stays Closing, whatever
    else happens: the pages come back only when the backend unmaps them, or when its domain ends."""
    NEEDS_RESET: Final[Node[bool]] = Node("virtio.back", "needs-reset", "bool", "mediator", default="0", initial="0")
    """1: the device is broken, like DEVICE_NEEDS_RESET (virtio 2.1); close it and connect again."""
    ERROR: Final[Node[str]] = Node(
        "virtio.back", "error", "text", "mediator", max_bytes=1024, may_be_empty=True, initial=""
    )
    """Why the device is broken or was refused: one sentence that names the node, field or descriptor, and what was
    expected. Empty: it is neither."""
    QUEUE_RESET_DONE: Final[Node[int]] = Node(
        "virtio.back", "queue-{n}/reset-done", "u32", "mediator", default="0", initial="0"
    )
    """The `reset` count that has been carried out: no request of that queue is alive and all its grants have ended
    (VIRTIO_F_RING_RESET, virtio 2.6.1)."""
    STATS: Final[Node[dict[str, Any]]] = Node("virtio.back", "stats", "json", "mediator", max_bytes=3072, initial="{}")
    """Answer to `stats-request`: counters of the device as JSON, with the `nonce` of the request: it answers every
    request up to that one."""
    STATS_REQUEST: Final[Node[int]] = Node("virtio.back", "stats-request", "u32", "toolstack", default="0")
    """One more than before (after 4294967295 comes 1) asks the mediator to write `stats`. 0: nobody has asked."""
    TRACE: Final[Node[dict[str, Any]]] = Node("virtio.back", "trace", "json", "mediator", max_bytes=3072, initial="{}")
    """Answer to `trace-request`: where one queue stands and its latest events, as JSON, with the `nonce` of the
    request. `queue` says which queue: another request may have asked for another one."""
    TRACE_REQUEST: Final[Node[int]] = Node("virtio.back", "trace-request", "u32", "toolstack", default="0")
    """One more than before, as `stats-request`, asks the mediator to write `trace`. 0: nobody has asked."""
    TRACE_QUEUE: Final[Node[int]] = Node("virtio.back", "trace-queue", "u16", "toolstack", default="0", max=63)
    """Which queue `trace-request` asks for."""
    TRACE_EVERY: Final[Node[int]] = Node("virtio.back", "trace-every", "u32", "toolstack")
    """Every so many chains one is traced, from the next `trace-request` on; 0: none. Absent: nobody has said."""


VIRTIO_BACK: Final = Directory(
    name="virtio.back",
    path="/local/domain/{mediator}/backend/virtio/{frontend}/{device}",
    owner="mediator",
    nodes=(
        VirtioBack.FRONTEND,
        VirtioBack.FRONTEND_ID,
        VirtioBack.ONLINE,
        VirtioBack.STATE,
        VirtioBack.SVQ_HANDLE,
        VirtioBack.FRONTEND_MEMORY,
        VirtioBack.FRONTEND_BALLOONS,
        VirtioBack.GRANT_MARK,
        VirtioBack.QUEUES,
        VirtioBack.PLACEMENT,
        VirtioBack.COPY_THRESHOLD,
        VirtioBack.VERSION,
        VirtioBack.DEVICE_TYPE,
        VirtioBack.FEATURES,
        VirtioBack.CONFIG,
        VirtioBack.CONFIG_GENERATION,
        VirtioBack.NUM_QUEUES,
        VirtioBack.QUEUE_SIZE_MAX,
        VirtioBack.GRANT_REFS_WANTED,
        VirtioBack.CLOSE_TIMEOUT_MS,
        VirtioBack.QUEUE_HELD,
        VirtioBack.HELD_PAGES,
        VirtioBack.NEEDS_RESET,
        VirtioBack.ERROR,
        VirtioBack.QUEUE_RESET_DONE,
        VirtioBack.STATS,
        VirtioBack.STATS_REQUEST,
        VirtioBack.TRACE,
        VirtioBack.TRACE_REQUEST,
        VirtioBack.TRACE_QUEUE,
        VirtioBack.TRACE_EVERY,
    ),
    doc="Leg 1, the mediator's side.",
)


def virtio_back_path(*, mediator: int, frontend: int, device: int) -> str:
    """The path of that directory, /local/domain/{mediator}/backend/virtio/{frontend}/{device}."""
    return f"/local/domain/{mediator}/backend/virtio/{frontend}/{device}"


def virtio_back_root(*, mediator: int) -> str:
    """The path below which a mediator domain has all its directories of that kind."""
    return f"/local/domain/{mediator}/backend/virtio"


class VirtioFront:
    """Leg 1, the frontend's side. /local/domain/{frontend}/device/virtio/{device}"""

    BACKEND: Final[Node[str]] = Node("virtio.front", "backend", "path", "toolstack", required_from=State.Initialising)
    """Path of the mediator's directory."""
    BACKEND_ID: Final[Node[int]] = Node(
        "virtio.front", "backend-id", "domid", "toolstack", required_from=State.Initialising
    )
    """Domain id of the mediator."""
    STATE: Final[Node[State]] = Node(
        "virtio.front", "state", "state", "frontend", required_from=State.Initialising, initial="1"
    )
    """XenBus state of the frontend's side; created by the toolstack."""
    FEATURES_ACCEPTED: Final[Node[int]] = Node(
        "virtio.front", "features-accepted", "u64", "frontend", required_from=State.Initialised
    )
    """Feature bits that the driver accepted; they must be a subset of `features` that includes VERSION_1 and
    ACCESS_PLATFORM."""
    NUM_QUEUES: Final[Node[int]] = Node(
        "virtio.front", "num-queues", "u16", "frontend", required_from=State.Initialised, min=1, max=64
    )
    """Queues that the driver uses, 0 to this - 1."""
    QUEUE_SIZE: Final[Node[int]] = Node(
        "virtio.front", "queue-{n}/size", "u16", "frontend", required_from=State.Initialised, min=1, max=1024
    )
    """Ring size, a power of two (virtio 2.7). After a ring reset it may be smaller than when the device was
    connected, but not larger."""
    QUEUE_DESC: Final[Node[int]] = Node(
        "virtio.front", "queue-{n}/desc", "u64", "frontend", required_from=State.Initialised
    )
    """Guest physical address of the descriptor table, aligned to 16."""
    QUEUE_AVAIL: Final[Node[int]] = Node(
        "virtio.front", "queue-{n}/avail", "u64", "frontend", required_from=State.Initialised
    )
    """Guest physical address of the available ring, aligned to 2."""
    QUEUE_USED: Final[Node[int]] = Node(
        "virtio.front", "queue-{n}/used", "u64", "frontend", required_from=State.Initialised
    )
    """Guest physical address of the used ring, aligned to 4."""
    QUEUE_EVENT_CHANNEL: Final[Node[int]] = Node(
        "virtio.front", "queue-{n}/event-channel", "u32", "frontend", required_from=State.Initialised, min=1
    )
    """Unbound event channel port for the mediator: kicks one way, used-buffer notifications the other."""
    QUEUE_RESET: Final[Node[int]] = Node("virtio.front", "queue-{n}/reset", "u32", "frontend", default="0")
    """Count of ring resets asked for. One more than `reset-done`: reset this queue."""
    QUEUE_ENABLE: Final[Node[int]] = Node("virtio.front", "queue-{n}/enable", "u32", "frontend", default="0")
    """Set to the `reset` count after new ring addresses were written: the queue runs again."""
    GRANT_REFS_FIRST: Final[Node[int]] = Node("virtio.front", "grant-refs-first", "u32", "frontend", min=8)
    """First of a run of grant references that the frontend has reserved in its own allocator: the mediator writes
    there and nowhere else in its grant table. Absent: the mediator takes the upper part of the table."""
    GRANT_REFS_COUNT: Final[Node[int]] = Node("virtio.front", "grant-refs-count", "u32", "frontend", min=64)
    """How many there are in that run."""
    STATUS: Final[Node[int]] = Node("virtio.front", "status", "u8", "frontend", default="0")
    """The driver's device status byte (virtio 2.1), for the operator's eyes."""


VIRTIO_FRONT: Final = Directory(
    name="virtio.front",
    path="/local/domain/{frontend}/device/virtio/{device}",
    owner="frontend",
    nodes=(
        VirtioFront.BACKEND,
        VirtioFront.BACKEND_ID,
        VirtioFront.STATE,
        VirtioFront.FEATURES_ACCEPTED,
        VirtioFront.NUM_QUEUES,
        VirtioFront.QUEUE_SIZE,
        VirtioFront.QUEUE_DESC,
        VirtioFront.QUEUE_AVAIL,
        VirtioFront.QUEUE_USED,
        VirtioFront.QUEUE_EVENT_CHANNEL,
        VirtioFront.QUEUE_RESET,
        VirtioFront.QUEUE_ENABLE,
        VirtioFront.GRANT_REFS_FIRST,
        VirtioFront.GRANT_REFS_COUNT,
        VirtioFront.STATUS,
    ),
    doc="Leg 1, the frontend's side.",
)


def virtio_front_path(*, frontend: int, device: int) -> str:
    """The path of that directory, /local/domain/{frontend}/device/virtio/{device}."""
    return f"/local/domain/{frontend}/device/virtio/{device}"


def virtio_front_root(*, frontend: int) -> str:
    """The path below which a frontend domain has all its directories of that kind."""
    return f"/local/domain/{frontend}/device/virtio"


class VirtioRecord:
    """dom0's own record of a device, which the frontend can read. /local/domain/{frontend}/shadowvq/{device}"""

    MEDIATOR_ID: Final[Node[int]] = Node("virtio.record", "mediator-id", "domid", "toolstack")
    """Domain id of the mediator."""
    BACKEND_ID: Final[Node[int]] = Node("virtio.record", "backend-id", "domid", "toolstack")
    """Domain id of the backend: the domain that has held pages mapped."""
    SVQ_HANDLE: Final[Node[int]] = Node("virtio.record", "svq-handle", "u32", "toolstack")
    """As in the mediator's directory. As long as the backend's half of that pair exists, no other device gets this
    one's number."""
    GRANT_MARK: Final[Node[int]] = Node("virtio.record", "grant-mark", "u8", "toolstack", min=1, max=127)
    """As in the mediator's directory. It is removed once nothing is granted for the device any more, and that ends
    the record."""
    DECLARED_AS: Final[Node[str]] = Node("virtio.record", "declared-as", "text", "toolstack", max_bytes=64)
    """Name of the declaration (`shadowvq ctl apply`) that the device was attached for. Absent: somebody attached it
    by hand, and no declaration takes it away."""
    DECLARED: Final[Node[bytes]] = Node("virtio.record", "declared", "hex", "toolstack", max_bytes=32)
    """Digest of what that declaration said about the disk. If the declaration's digest changes, the device is
    detached and attached again."""
    ATTACHED: Final[Node[int]] = Node("virtio.record", "attached", "u32", "toolstack", default="0")
    """Grows by one with each attach of this device number, so that one device is not taken for the next. It is
    never reset."""
    SWEPT: Final[Node[int]] = Node("virtio.record", "swept", "u32", "toolstack", default="0")
    """Grows by one when the device is detached, and when dom0 has taken back what a mediator that is gone had
    granted for it; in both cases only once no page of it is held. The frontend then has its buffers back, though
    nobody says Closed to it any more. It is never reset, and stays when the rest of the record goes."""


VIRTIO_RECORD: Final = Directory(
    name="virtio.record",
    path="/local/domain/{frontend}/shadowvq/{device}",
    owner="toolstack",
    nodes=(
        VirtioRecord.MEDIATOR_ID,
        VirtioRecord.BACKEND_ID,
        VirtioRecord.SVQ_HANDLE,
        VirtioRecord.GRANT_MARK,
        VirtioRecord.DECLARED_AS,
        VirtioRecord.DECLARED,
        VirtioRecord.ATTACHED,
        VirtioRecord.SWEPT,
    ),
    doc="dom0's own record of a device, which the frontend can read.",
)


def virtio_record_path(*, frontend: int, device: int) -> str:
    """The path of that directory, /local/domain/{frontend}/shadowvq/{device}."""
    return f"/local/domain/{frontend}/shadowvq/{device}"


def virtio_record_root(*, frontend: int) -> str:
    """The path below which a frontend domain has all its directories of that kind."""
    return f"/local/domain/{frontend}/shadowvq"


class SvqBack:
    """Leg 2, the backend's side. /local/domain/{backend}/backend/svq/{mediator}/{handle}"""

    FRONTEND: Final[Node[str]] = Node("svq.back", "frontend", "path", "toolstack", required_from=State.Initialising)
    """Path of the mediator's directory."""
    FRONTEND_ID: Final[Node[int]] = Node(
        "svq.back", "frontend-id", "domid", "toolstack", required_from=State.Initialising
    )
    """Domain id of the mediator."""
    ONLINE: Final[Node[bool]] = Node("svq.back", "online", "bool", "toolstack", default="1")
    """0 asks the backend to close the device (detach)."""
    STATE: Final[Node[State]] = Node(
        "svq.back", "state", "state", "backend", required_from=State.Initialising, initial="1"
    )
    """XenBus state of the backend's side; created by the toolstack."""
    TYPE: Final[Node[str]] = Node(
        "svq.back", "type", "choice", "toolstack", required_from=State.Initialising, choices=("blk",)
    )
    """What kind of device the backend serves."""
    PARAMS: Final[Node[str]] = Node("svq.back", "params", "path", "toolstack", required_from=State.Initialising)
    """Image file or block device, a path in the backend's domain."""
    MODE: Final[Node[str]] = Node("svq.back", "mode", "choice", "toolstack", default="w", choices=("r", "w"))
    """r: read-only."""
    DIRECT_IO: Final[Node[bool]] = Node("svq.back", "direct-io", "bool", "toolstack", default="0")
    """1: bypass the page cache of the backend's domain."""
    SHAREABLE: Final[Node[bool]] = Node("svq.back", "shareable", "bool", "toolstack", default="0")
    """1: others may write to the image at the same time, devices of other guests or other programs. All concurrent
    writers have to say so, and so does a reader beside a writer. 0: that is refused."""
    SERIAL: Final[Node[str]] = Node("svq.back", "serial", "text", "toolstack", max_bytes=20)
    """Answer to GET_ID (virtio 5.2.6); absent: made from the handle."""
    QUEUES: Final[Node[int]] = Node("svq.back", "queues", "u16", "toolstack", default="1", min=1, max=64)
    """Queues to offer."""
    WINDOW_OWNER: Final[Node[int]] = Node(
        "svq.back", "window-owner", "domid", "toolstack", required_from=State.Initialising
    )
    """Domain that owns the grant references in addresses with bit 62 set: the frontend. All other references are
    the mediator's. It is in this directory, which the mediator can only read: else a mediator could have the
    backend serve its guest from another guest's pages."""
    VERSION: Final[Node[int]] = Node("svq.back", "version", "u16", "backend", required_from=State.InitWait, min=1)
    """Version of this protocol that the backend speaks."""
    DEVICE_TYPE: Final[Node[int]] = Node(
        "svq.back", "device-type", "u16", "backend", required_from=State.InitWait, min=1, max=63
    )
    """Virtio device type (virtio 5)."""
    FEATURES: Final[Node[int]] = Node("svq.back", "features", "u64", "backend", required_from=State.InitWait)
    """Feature bits that the device offers."""
    CONFIG: Final[Node[bytes]] = Node(
        "svq.back", "config", "hex", "backend", required_from=State.InitWait, max_bytes=256
    )
    """The device configuration space."""
    CONFIG_GENERATION: Final[Node[int]] = Node(
        "svq.back", "config-generation", "u32", "backend", required_from=State.InitWait, initial="0"
    )
    """Grows by one with each change of `config`; written after it."""
    NUM_QUEUES: Final[Node[int]] = Node(
        "svq.back", "num-queues", "u16", "backend", required_from=State.InitWait, min=1, max=64
    )
    """Queues that the device has."""
    QUEUE_SIZE_MAX: Final[Node[int]] = Node(
        "svq.back", "queue-size-max", "u16", "backend", required_from=State.InitWait, min=4, max=1024
    )
    """Largest ring size, a power of two."""
    ERROR: Final[Node[str]] = Node(
        "svq.back", "error", "text", "backend", max_bytes=1024, may_be_empty=True, initial=""
    )
    """Why the device cannot be served, in one sentence. Empty: it can."""
    FLUSH_FAILED: Final[Node[bool]] = Node("svq.back", "flush-failed", "bool", "backend", default="0", initial="0")
    """1: a flush of the image has failed. The system reports a lost write only once, so every further FLUSH fails,
    whoever connects, until the image is detached and attached again."""
    STATS: Final[Node[dict[str, Any]]] = Node("svq.back", "stats", "json", "backend", max_bytes=3072, initial="{}")
    """Answer to `stats-request`: counters of the backend as JSON, with the `nonce` of the request: it answers every
    request up to that one."""
    STATS_REQUEST: Final[Node[int]] = Node("svq.back", "stats-request", "u32", "toolstack", default="0")
    """One more than before (after 4294967295 comes 1) asks the backend to write `stats`. 0: nobody has asked."""
    RESIZE: Final[Node[dict[str, Any]]] = Node("svq.back", "resize", "json", "backend", max_bytes=2048, initial="{}")
    """Answer to `resize-request`: its `nonce`, which answers every request up to that one, and either `bytes`, the
    image's size by `config` now, or `error`, why it stays as it was."""
    RESIZE_REQUEST: Final[Node[int]] = Node("svq.back", "resize-request", "u32", "toolstack", default="0")
    """One more than before (counted like `stats-request`) asks the backend to measure the image."""


SVQ_BACK: Final = Directory(
    name="svq.back",
    path="/local/domain/{backend}/backend/svq/{mediator}/{handle}",
    owner="backend",
    nodes=(
        SvqBack.FRONTEND,
        SvqBack.FRONTEND_ID,
        SvqBack.ONLINE,
        SvqBack.STATE,
        SvqBack.TYPE,
        SvqBack.PARAMS,
        SvqBack.MODE,
        SvqBack.DIRECT_IO,
        SvqBack.SHAREABLE,
        SvqBack.SERIAL,
        SvqBack.QUEUES,
        SvqBack.WINDOW_OWNER,
        SvqBack.VERSION,
        SvqBack.DEVICE_TYPE,
        SvqBack.FEATURES,
        SvqBack.CONFIG,
        SvqBack.CONFIG_GENERATION,
        SvqBack.NUM_QUEUES,
        SvqBack.QUEUE_SIZE_MAX,
        SvqBack.ERROR,
        SvqBack.FLUSH_FAILED,
        SvqBack.STATS,
        SvqBack.STATS_REQUEST,
        SvqBack.RESIZE,
        SvqBack.RESIZE_REQUEST,
    ),
    doc="Leg 2, the backend's side.",
)


def svq_back_path(*, backend: int, mediator: int, handle: int) -> str:
    """The path of that directory, /local/domain/{backend}/backend/svq/{mediator}/{handle}."""
    return f"/local/domain/{backend}/backend/svq/{mediator}/{handle}"


def svq_back_root(*, backend: int) -> str:
    """The path below which a backend domain has all its directories of that kind."""
    return f"/local/domain/{backend}/backend/svq"


class SvqFront:
    """Leg 2, the mediator's side, which plays the frontend. /local/domain/{mediator}/device/svq/{handle}"""

    BACKEND: Final[Node[str]] = Node("svq.front", "backend", "path", "toolstack", required_from=State.Initialising)
    """Path of the backend's directory."""
    BACKEND_ID: Final[Node[int]] = Node(
        "svq.front", "backend-id", "domid", "toolstack", required_from=State.Initialising
    )
    """Domain id of the backend. The mediator grants to it and to no other."""
    STATE: Final[Node[State]] = Node(
        "svq.front", "state", "state", "mediator", required_from=State.Initialising, initial="1"
    )
    """XenBus state of the mediator's side; created by the toolstack."""
    FEATURES_ACCEPTED: Final[Node[int]] = Node(
        "svq.front", "features-accepted", "u64", "mediator", required_from=State.Initialised
    )
    """Feature bits in force on this leg."""
    NUM_QUEUES: Final[Node[int]] = Node(
        "svq.front", "num-queues", "u16", "mediator", required_from=State.Initialised, min=1, max=64
    )
    """Queues in use."""
    QUEUE_SIZE: Final[Node[int]] = Node(
        "svq.front", "queue-{n}/size", "u16", "mediator", required_from=State.Initialised, min=1, max=1024
    )
    """Shadow ring size; the frontend's ring size."""
    QUEUE_RING_REFS: Final[Node[tuple[int, ...]]] = Node(
        "svq.front", "queue-{n}/ring-refs", "u32s", "mediator", required_from=State.Initialised, count_max=8
    )
    """Grants of the pages of the shadow ring, in this order: of the descriptor table and of the available ring,
    read-only; of the used ring, writable."""
    QUEUE_EVENT_CHANNEL: Final[Node[int]] = Node(
        "svq.front", "queue-{n}/event-channel", "u32", "mediator", required_from=State.Initialised, min=1
    )
    """Unbound event channel port for the backend."""
    WINDOW_FIRST: Final[Node[int]] = Node(
        "svq.front", "window-first", "u32", "mediator", required_from=State.Initialised
    )
    """First grant reference of the window."""
    WINDOW_COUNT: Final[Node[int]] = Node(
        "svq.front", "window-count", "u32", "mediator", required_from=State.Initialised
    )
    """Grant references in the window; 0: everything is copied."""
    LIFETIME: Final[Node[str]] = Node(
        "svq.front",
        "lifetime",
        "choice",
        "mediator",
        required_from=State.Initialised,
        choices=("strict",),
        initial="strict",
    )
    """strict: the backend unmaps every page of the window before it returns the request; a page that is still
    mapped then breaks the device."""


SVQ_FRONT: Final = Directory(
    name="svq.front",
    path="/local/domain/{mediator}/device/svq/{handle}",
    owner="mediator",
    nodes=(
        SvqFront.BACKEND,
        SvqFront.BACKEND_ID,
        SvqFront.STATE,
        SvqFront.FEATURES_ACCEPTED,
        SvqFront.NUM_QUEUES,
        SvqFront.QUEUE_SIZE,
        SvqFront.QUEUE_RING_REFS,
        SvqFront.QUEUE_EVENT_CHANNEL,
        SvqFront.WINDOW_FIRST,
        SvqFront.WINDOW_COUNT,
        SvqFront.LIFETIME,
    ),
    doc="Leg 2, the mediator's side, which plays the frontend.",
)


def svq_front_path(*, mediator: int, handle: int) -> str:
    """The path of that directory, /local/domain/{mediator}/device/svq/{handle}."""
    return f"/local/domain/{mediator}/device/svq/{handle}"


def svq_front_root(*, mediator: int) -> str:
    """The path below which a mediator domain has all its directories of that kind."""
    return f"/local/domain/{mediator}/device/svq"


DIRECTORIES: Final = (VIRTIO_BACK, VIRTIO_FRONT, VIRTIO_RECORD, SVQ_BACK, SVQ_FRONT)
