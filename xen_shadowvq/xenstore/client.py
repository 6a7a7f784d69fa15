# SPDX-License-Identifier: GPL-2.0-or-later
"""XenStore as the rest of the program sees it: requests, transactions, watches. No other package knows pyxs."""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pyxs._internal import NUL, Op
from pyxs.exceptions import PyXSError

from xen_shadowvq.errors import XenStoreError, XenStoreGone, XenStoreTimeout
from xen_shadowvq.pace import Backoff
from xen_shadowvq.xenstore.pyxs_fixes import KernelConnection, PatchedClient, SupervisedRouter, UnixConnection
from xen_shadowvq.xenstore.watch_queue import WatchEvent, WatchQueue
from xen_shadowvq.xenstore.wire import raw_path, raw_perms, raw_token, text

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Transaction", "WatchEvent", "XenStore"]

T = TypeVar("T")

_DIRECTORY_PART: Final = 22  # newer than pyxs
_LIST_ATTEMPTS_MAX: Final = 16
_LIST_PARTS_MAX: Final = 4096
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1
_DAEMON: Final = Path("/run/xenstored/socket")
_DEVICES: Final = (Path("/dev/xen/xenbus"), Path("/proc/xen/xenbus"))
_TRANSACTION: Final = "(transaction)"  # in place of a path in XenStoreError
_DOMAIN: Final = "/local/domain/"


@contextmanager
def _own_errors(path: str, value_bytes: int = 0) -> Iterator[None]:
    """Turns what pyxs raises into our exceptions, with the path, and the length of a value that was to be written."""
    try:
        yield
    except XenStoreTimeout as error:
        raise XenStoreTimeout(f"{path}: {error}") from error
    except PyXSError as error:
        number = error.args[0] if error.args else None
        if not isinstance(number, int):
            raise XenStoreGone(f"unexpected answer: {error}") from error
        raise XenStoreError(number, path, value_bytes) from error


class _Requests:
    """Reading and writing nodes, in a transaction or not.

    Paths without a leading slash are below the caller's own domain. Every method raises XenStoreError (with errno, e.g.
    EACCES), XenStoreTimeout (a change may still happen), or XenStoreGone.
    """

    @property
    def _client(self) -> PatchedClient:
        raise NotImplementedError

    def read(self, path: str) -> str | None:
        """The value, or None when there is no such node."""
        try:
            with _own_errors(path):
                return text(self._client.read(raw_path(path)))
        except XenStoreError as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    def write(self, path: str, value: str) -> None:
        """Set the value (UTF-8, may be empty), making the node and its parents as needed."""
        raw = value.encode()
        with _own_errors(path, len(raw)):
            self._client.write(raw_path(path), raw)

    def mkdir(self, path: str) -> None:
        """Make the node and its parents as needed; one that is there stays as it is."""
        with _own_errors(path):
            self._client.mkdir(raw_path(path))

    def rm(self, path: str) -> None:
        """Remove the node and all below it; fine when it is not there."""
        try:
            with _own_errors(path):
                self._client.delete(raw_path(path))
        except XenStoreError as error:
            # xenstored says EACCES also for what does not exist, if its parent is not ours to write
            if error.errno != errno.ENOENT and (error.errno != errno.EACCES or self.read(path) is not None):
                raise

    def ls(self, path: str) -> list[str]:
        """Names of the children, in no particular order; empty when there is no such node."""
        raw = raw_path(path)
        try:
            with _own_errors(path):
                try:
                    return [text(name) for name in self._client.list(raw)]
                except PyXSError as error:
                    if error.args[0] != errno.E2BIG:
                        raise
                    return self._ls_in_parts(raw, path)
        except XenStoreError as error:
            if error.errno != errno.ENOENT:
                raise
            return []

    def get_perms(self, path: str) -> list[str]:
        """Permissions such as `n0`, `r3`: the owner and what everyone may do first, then exceptions."""
        with _own_errors(path):
            return [text(perm) for perm in self._client.get_perms(raw_path(path))]

    def set_perms(self, path: str, perms: list[str]) -> None:
        """Replace the permissions."""
        with _own_errors(path):
            self._client.set_perms(raw_path(path), raw_perms(perms, path))

    def _ls_in_parts(self, raw: bytes, path: str) -> list[str]:
        """Lists a directory whose names do not fit in one message; starts again when it changes meanwhile."""
        for _ in range(_LIST_ATTEMPTS_MAX):
            names, generation = b"", None
            for _ in range(_LIST_PARTS_MAX):
                answer = self._client.raw_command(_DIRECTORY_PART, raw + NUL, str(len(names)).encode() + NUL)
                new_generation, _, part = answer.partition(NUL)
                if generation not in (None, new_generation):
                    break
                generation = new_generation
                names += part
                if part == NUL or part.endswith(NUL + NUL):  # an empty name: the end
                    return [text(name) for name in names.split(NUL) if name]
                if not part:
                    raise PyXSError(errno.EIO, "an empty part")
        raise XenStoreError(errno.EAGAIN, path)


class Transaction(_Requests):
    """Requests that take effect together, or not at all; only within its `with` block."""

    def __init__(self, client: PatchedClient) -> None:
        self._open_client: PatchedClient | None = client

    @property
    def _client(self) -> PatchedClient:
        if self._open_client is None:
            raise RuntimeError("the transaction has ended")
        return self._open_client

    def end(self) -> None:
        """Refuse further requests, which would run outside of the transaction."""
        self._open_client = None


# ---- the connection --------------------------------------------------------------------------------------------------


class XenStore(_Requests):
    """A connection to XenStore with its watches. Every method may be called from any thread."""

    def __init__(self, socket_path: str | None, timeout_ms: int, paths_per_token_max: int = 64) -> None:
        """Use connect()."""
        self._socket_path = socket_path
        self._timeout_s = timeout_ms / 1000
        self._queue = WatchQueue(paths_per_token_max)
        self._reconnect_lock = threading.Lock()
        self._current: PatchedClient | None = None

    @classmethod
    def connect(cls, socket_path: str | None = None, timeout_ms: int = 5000) -> Self:
        """Connect to a Unix socket; None: xenstored's own in dom0, else the kernel's device.

        `timeout_ms` is for each request. Raises XenStoreGone.
        """
        store = cls(socket_path, timeout_ms)
        try:
            store._open()
        except BaseException:
            store._queue.close()
            raise
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; xenstored forgets the watches and open transactions."""
        with self._reconnect_lock:
            self._disconnect()
            self._queue.close()

    @property
    def alive(self) -> bool:
        """Whether the connection still stands."""
        return self.failure is None

    @property
    def failure(self) -> str | None:
        """Why the connection is lost; None while it is not."""
        client = self._current
        return "not connected" if client is None else client.router.failure

    @property
    def silent(self) -> bool:
        """Whether the last request got no answer in time: if the next gets none either, only `reconnect` helps."""
        return self._current is not None and self._current.router.silent

    def reconnect(self) -> None:
        """Connect again and register all watches again; each token gets a rescan event.

        Raises XenStoreGone, XenStoreError, XenStoreTimeout; it is then not connected, and reconnect() may be called
        again.
        """
        with self._reconnect_lock:
            self._disconnect()
            self._queue.revive()
            try:
                self._open()
                for path, token in self._queue.watches():
                    with _own_errors(path):
                        self._client.ack(Op.WATCH, raw_path(path) + NUL, raw_token(token, path) + NUL)
                    self._queue.rescan(token)
            except BaseException as error:
                self._disconnect()
                self._queue.fail(f"not connected: {error}")
                raise

    def is_domain_introduced(self, domid: int) -> bool:
        """Whether xenstored knows a domain: from its creation until it is destroyed. EACCES: only dom0 may ask."""
        with _own_errors(f"{_DOMAIN}{domid}"):
            answer = self._client.execute_command(Op.IS_DOMAIN_INTRODUCED, str(domid).encode() + NUL)
        if answer not in (b"T", b"F"):
            raise XenStoreGone(f"unexpected answer to whether domain {domid} exists: {answer!r}")
        return answer == b"T"

    def watch(self, path: str, token: str) -> None:
        """Watch a node and all below it, or `@introduceDomain`, `@releaseDomain`. One event comes at once.

        Tokens come back with the events; several paths may share one. XenStoreError EEXIST for the same pair again.
        """
        arguments = raw_path(path) + NUL, raw_token(token, path) + NUL
        if not self._queue.expect(path, token):
            raise XenStoreError(errno.EEXIST, path)
        try:
            with _own_errors(path):
                self._client.ack(Op.WATCH, *arguments)
        except XenStoreError as error:
            if error.errno == errno.EEXIST:  # left from an attempt that timed out, so its first event has passed
                self._queue.rescan(token)
                return
            self._queue.forget(path, token)
            raise
        except BaseException:
            self._queue.forget(path, token)
            raise

    def unwatch(self, path: str, token: str) -> None:
        """End a watch; none of its events is delivered after this. XenStoreError ENOENT when there is none."""
        arguments = raw_path(path) + NUL, raw_token(token, path) + NUL
        if not self._queue.forget(path, token):
            raise XenStoreError(errno.ENOENT, path)
        with _own_errors(path):
            self._client.ack(Op.UNWATCH, *arguments)

    def next_event(self, timeout_ms: int) -> WatchEvent | None:
        """The oldest event, or None after `timeout_ms`. Raises XenStoreGone when there is none and can be none."""
        return self._queue.get(timeout_ms)

    def fileno(self) -> int:
        """A descriptor to poll: readable while next_event() would not wait. It outlives reconnect()."""
        return self._queue.fileno()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction, committed at the end of the block, or given up when an exception leaves it.

        XenStoreError EAGAIN: something that it had read or written was changed meanwhile.
        """
        client = self._client.__copy__()
        with _own_errors(_TRANSACTION):
            try:
                client.transaction()
            except ValueError as error:
                raise XenStoreGone(f"not a transaction id: {error}") from error
        transaction = Transaction(client)
        try:
            yield transaction
        except BaseException:
            with contextlib.suppress(PyXSError, XenStoreGone, XenStoreTimeout):
                client.rollback()
            raise
        finally:
            transaction.end()
        with _own_errors(_TRANSACTION):
            committed = client.commit()
        if not committed:
            raise XenStoreError(errno.EAGAIN, _TRANSACTION)

    def in_transaction(self, work: Callable[[Transaction], T], attempts_max: int = 16, *, patience_s: float = 0.0) -> T:
        """Run `work` in a transaction, and again when others interfered: `attempts_max` times at once, then with pauses
        until `patience_s` are over. In vain: XenStoreError EAGAIN. A service has no patience, as its peers can
        interfere as long as they like.

        `work` may run several times; only the last run takes effect.
        """
        deadline, pauses = time.monotonic() + patience_s, Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        for attempt in itertools.count(1):
            try:
                with self.transaction() as transaction:
                    return work(transaction)
            except XenStoreError as error:
                if error.errno != errno.EAGAIN:
                    raise
            if attempt >= attempts_max:
                if time.monotonic() >= deadline:
                    break
                pauses.fail()
                # so that those who collided do not collide again
                time.sleep(random.uniform(0.0, pauses.length_s))  # noqa: S311
        raise XenStoreError(errno.EAGAIN, _TRANSACTION)

    @property
    def _client(self) -> PatchedClient:
        if self._current is None:
            raise XenStoreGone("not connected")
        return self._current

    def _open(self) -> None:
        router = SupervisedRouter(self._connection(), self._timeout_s, self._queue)
        try:
            router.start()
        except (PyXSError, OSError) as error:
            router.terminate()
            raise XenStoreGone(f"cannot connect to XenStore at {router.connection.path}: {error}") from error
        self._current = PatchedClient(router=router)

    def _connection(self) -> Any:
        if self._socket_path is not None:
            return UnixConnection(self._socket_path, self._timeout_s)
        if _DAEMON.is_socket():
            return UnixConnection(str(_DAEMON), self._timeout_s)
        if not any(device.exists() for device in _DEVICES):
            raise XenStoreGone(
                f"there is no XenStore here, neither {_DAEMON} nor {_DEVICES[0]}: run this in a Xen domain; in dom0 "
                "start xenstored"
            )
        return KernelConnection()

    def _disconnect(self) -> None:
        client, self._current = self._current, None
        if client is not None:
            client.router.terminate()
