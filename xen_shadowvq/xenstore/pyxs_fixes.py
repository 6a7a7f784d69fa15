# SPDX-License-Identifier: GPL-2.0-or-later
"""pyxs, and the place where its defects end.

pyxs 0.4.1 waits forever when xenstored is gone or silent, dies of a reply that it does not know, spins in
`Monitor.wait()`, takes no file descriptor above 1023, writes no empty value, cannot list a large directory and cannot
connect again. Here its router gets a supervised loop, requests get a time limit, and events go to a WatchQueue.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import struct
from typing import Any

from pyxs import Client, Router
from pyxs._internal import NUL, Op, Packet
from pyxs.client import RVar
from pyxs.connection import UnixSocketConnection, XenBusConnection
from pyxs.exceptions import PyXSError

from xen_shadowvq.errors import XenStoreGone, XenStoreTimeout
from xen_shadowvq.xenstore.watch_queue import WatchQueue
from xen_shadowvq.xenstore.wire import PAYLOAD_BYTES_MAX, SocketTransport, text


class _AnyPacket:
    """Receives every message type; pyxs raises on those that it does not know."""

    transport: Any

    def recv(self) -> Any:
        op, rq_id, tx_id, size = Packet._struct.unpack(self.transport.recv(Packet._struct.size))
        if size > PAYLOAD_BYTES_MAX:
            raise PyXSError(errno.EIO, f"a message of {size} bytes")
        # A zero-byte read of /dev/xen/xenbus would block.
        payload = self.transport.recv(size) if size else b""
        return Packet._make((op, rq_id, tx_id, size, payload))


class UnixConnection(_AnyPacket, UnixSocketConnection):  # type: ignore[misc]
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__(path)
        self._timeout_s = timeout_s

    def create_transport(self) -> SocketTransport:
        return SocketTransport(self.path, self._timeout_s)


class KernelConnection(_AnyPacket, XenBusConnection):  # type: ignore[misc]
    pass


class SupervisedRouter(Router):  # type: ignore[misc]
    """A router whose death everyone hears of: pending requests fail at once, later ones are refused."""

    def __init__(self, connection: Any, timeout_s: float, queue: WatchQueue) -> None:
        super().__init__(connection)
        self.timeout_s = timeout_s
        self.failure: str | None = None
        self.silent = False  # the last request that ended got no answer
        self._queue = queue
        self._next_rq_id = 0
        # TRANSACTION_START requests that timed out: should the answer come after all, that transaction is ended.
        self._given_up: set[int] = set()

    def __call__(self) -> None:
        reason = "the connection was closed"
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self.connection, selectors.EVENT_READ)
                selector.register(self.r_terminator, selectors.EVENT_READ)
                while self.r_terminator not in {key.fileobj for key, _ in selector.select()}:
                    self._take(self.connection.recv())
        except Exception as error:  # whatever it was, it has to reach those who wait
            reason = f"lost the connection: {error}"
        self._die(reason)

    def request(self, op: int, tx_id: int, payload: bytes) -> Any:
        """Send a request and wait for its answer. Raises XenStoreGone, XenStoreTimeout, PyXSError E2BIG."""
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise PyXSError(errno.E2BIG, "longer than a message may be")
        with self.send_lock:
            rq_id = self._free_rq_id()
            rvar = self.rvars[rq_id] = RVar()
            self._send(op, rq_id, tx_id, payload)
        with rvar.condition:
            answered = rvar.condition.wait_for(lambda: rvar.target is not None, self.timeout_s)
        if not answered:
            with self.send_lock:
                self.rvars.pop(rq_id, None)
                if op == Op.TRANSACTION_START and rvar.target is None:
                    self._given_up.add(rq_id)
        packet = rvar.target
        self.silent = packet is None
        if packet is None:
            raise XenStoreTimeout(f"no answer within {self.timeout_s:g} s")
        if self.failure is not None and packet.rq_id != rq_id:
            raise XenStoreGone(self.failure)
        return packet

    def stop(self, reason: str) -> None:
        """Latch a failure, and let the thread end. Callable without the lock, from any thread."""
        self.failure = self.failure or reason
        with contextlib.suppress(OSError):
            self.w_terminator.send(NUL)

    def terminate(self) -> None:
        """Disconnect, and wait for the thread."""
        self.stop("the connection was closed")
        if self.thread.ident is None:
            self._die("the connection was closed")
        else:
            self.thread.join(2 * self.timeout_s)

    def _free_rq_id(self) -> int:
        """An unused id; 32 bits on the wire."""
        while self._next_rq_id in self.rvars or self._next_rq_id in self._given_up:
            self._next_rq_id = (self._next_rq_id + 1) & 0xFFFFFFFF
        rq_id = self._next_rq_id
        self._next_rq_id = (rq_id + 1) & 0xFFFFFFFF
        return rq_id

    def _send(self, op: int, rq_id: int, tx_id: int, payload: bytes) -> None:
        """With the lock held. A message that went out in part ruins the stream, so any failure is the end of it."""
        try:
            if self.failure is None:
                self.connection.send(Packet._make((op, rq_id, tx_id, len(payload), payload)))
        except (PyXSError, OSError, AttributeError, struct.error) as error:
            self.stop(f"cannot send: {error}")
        if self.failure is not None:
            self.rvars.pop(rq_id, None)
            raise XenStoreGone(self.failure)

    def _take(self, packet: Any) -> None:
        """A message from xenstored. Unknown ids belong to requests that timed out; extra event fields are ignored."""
        if packet.op == Op.WATCH_EVENT:
            path, _, rest = packet.payload.partition(NUL)
            self._queue.put(text(path), text(rest.partition(NUL)[0]))
            return
        with self.send_lock:
            rvar = self.rvars.pop(packet.rq_id, None)
            late = packet.rq_id in self._given_up
            self._given_up.discard(packet.rq_id)
            if late and packet.op == Op.TRANSACTION_START and packet.payload.rstrip(NUL).isdigit():
                rq_id = self._free_rq_id()
                self._send(Op.TRANSACTION_END, rq_id, int(packet.payload.rstrip(NUL)), b"F" + NUL)
            if rvar is not None:
                rvar.set(packet)

    def _die(self, reason: str) -> None:
        with self.send_lock:
            self.failure = reason = self.failure or reason
            waiting = list(self.rvars.values())
            self.rvars.clear()
            self.connection.close()
            self.r_terminator.close()
            self.w_terminator.close()
        for rvar in waiting:
            rvar.set(Packet._make((Op.ERROR, None, 0, 4, b"EIO" + NUL)))
        self._queue.fail(reason)


class PatchedClient(Client):  # type: ignore[misc]
    """Requests by way of a supervised router; takes any bytes as a value, also none."""

    router: SupervisedRouter

    def __copy__(self) -> PatchedClient:
        return PatchedClient(router=self.router)

    def execute_command(self, op: int, *args: bytes) -> bytes:
        payload = self.raw_command(op, *args)
        return payload if op == Op.READ else payload.rstrip(NUL)

    def raw_command(self, op: int, *args: bytes) -> bytes:
        """The whole payload of the answer. An ERROR answer is raised as PyXSError with the errno."""
        packet = self.router.request(op, self.tx_id, b"".join(args))
        payload: bytes = packet.payload
        if packet.op == Op.ERROR:
            name = text(payload.rstrip(NUL))
            raise PyXSError(getattr(errno, name, errno.EIO) if name in errno.errorcode.values() else errno.EIO, name)
        if packet.op != op or packet.tx_id != self.tx_id:
            self.router.stop("an answer to another request")
            raise XenStoreGone("an answer to another request")
        return payload
