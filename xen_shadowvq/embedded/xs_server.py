# SPDX-License-Identifier: GPL-2.0-or-later
"""A XenStore server in a thread: one Unix socket per domain, and whoever connects to it is that domain."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, Self

from xen_shadowvq.embedded.xs_conn import Connection
from xen_shadowvq.embedded.xs_domain import Domain
from xen_shadowvq.embedded.xs_layout import make_domain_nodes
from xen_shadowvq.embedded.xs_limits import Limits
from xen_shadowvq.embedded.xs_ops import Dispatcher
from xen_shadowvq.embedded.xs_store import Store
from xen_shadowvq.embedded.xs_watch import WatchRegistry
from xen_shadowvq.embedded.xs_wire import DOMID_FIRST_RESERVED, FramingError
from xen_shadowvq.log import get_logger

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_REQUESTS_PER_TURN: Final = 8
_SUN_PATH_BYTES: Final = 107
_ACCEPT_RETRY_SECONDS: Final = 0.1

log = get_logger()


class XenStoreServer:
    """The embedded stand-in for xenstored. Single use: start() once, stop() once, or a `with` statement.

    Domain 0 is there from the start. The other methods may be called from any thread while the server runs.
    """

    def __init__(self, directory: Path, limits: Limits | None = None) -> None:
        self.directory = directory
        self._limits = limits or Limits()
        self._store = Store(self._limits)
        self._watches = WatchRegistry()
        self._dispatcher = Dispatcher(self._store, self._watches, self)
        self._selector = selectors.DefaultSelector()
        self._listeners: dict[int, socket.socket] = {}
        self._refused: set[int] = set()
        self._connections: set[Connection] = set()
        self._ready: set[Connection] = set()
        self._unflushed: set[Connection] = set()
        self._calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._calls_lock = threading.Lock()
        self._running = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="xenstore-server", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # ---- for the embedding process -------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the directory and domain 0's socket, and serve. Raises OSError, ValueError for too long a directory."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        try:
            self._add_domain(0, True, "Domain-0")
        except BaseException:
            self._close_all()
            raise
        self._running = True
        self._thread.start()

    def stop(self) -> None:
        """Disconnect everyone and remove the sockets. Fine to call again, or without start()."""
        with self._calls_lock:
            was_running, self._running = self._running, False
        if was_running:
            self._wake()
            self._thread.join()
        self._close_all()

    def socket_path(self, domid: int) -> Path:
        """Where to connect to be that domain."""
        return self.directory / f"xenstore-dom{domid}.sock"

    def watches_of(self, domid: int) -> int:
        """How many watches a domain has. ValueError: there is no such domain."""
        domain = self._store.domains.get(domid)
        if domain is None:
            raise ValueError(f"there is no domain {domid}")
        return domain.watches

    def add_domain(self, domid: int, *, privileged: bool = False, name: str | None = None) -> Path:
        """Make a domain: its socket, which is returned, and its directory as xl makes it; fires @introduceDomain.

        Raises ValueError for an id out of range or in use, OSError, RuntimeError when the server does not run.
        """
        self._call(lambda: self._add_domain(domid, privileged, name or f"dom{domid}"))
        return self.socket_path(domid)

    def remove_domain(self, domid: int) -> None:
        """Destroy a domain as Xen and xl do: disconnected, its nodes and its directory removed, @releaseDomain fired.

        Nodes of other owners, such as a backend's directory for it, stay. Raises ValueError for an unknown or 0 id.
        """
        self._call(lambda: self._remove_domain(domid))

    def has_domain(self, domid: int) -> bool:
        """Whether the domain is introduced."""
        found: list[bool] = []
        self._call(lambda: found.append(domid in self._store.domains))
        return found[0]

    # ---- domains; also what INTRODUCE and RELEASE do -------------------------------------------------------------

    def introduce(self, domid: int) -> None:
        """Let a domain connect; one that is there already loses its watches and transactions."""
        if domid in self._store.domains:
            for connection in [c for c in self._connections if c.domain.domid == domid]:
                self._dispatcher.drop_state(connection)
            return
        self._introduce(domid, privileged=False)
        self._watches.fire_special("@introduceDomain")

    def release(self, domid: int) -> None:
        """Disconnect a domain, remove what it owns, and forget it."""
        self._close_listener(domid)
        for connection in [c for c in self._connections if c.domain.domid == domid]:
            self._close(connection)
        self._store.domains.remove(domid)
        self._watches.forget_domain(domid)
        # What is written from here on is newer than anything that the old domain was given.
        self._store.tree.bump()
        self._watches.fire(self._store.remove_owned_by(domid))
        self._watches.fire_special("@releaseDomain")

    def _introduce(self, domid: int, *, privileged: bool) -> Domain:
        listener = self._listen(domid)
        self._listeners[domid] = listener
        domain = Domain(domid, privileged, self._store.tree.generation)
        self._store.domains.add(domain)
        self._selector.register(listener, selectors.EVENT_READ, domain)
        return domain

    def _add_domain(self, domid: int, privileged: bool, name: str) -> None:
        if not 0 <= domid < DOMID_FIRST_RESERVED:
            raise ValueError(f"domain id {domid} is out of range")
        if domid in self._store.domains:
            raise ValueError(f"domain {domid} is there already")
        domain = self._introduce(domid, privileged=privileged)
        dom0 = self._store.domains.get(0) or domain
        self._watches.fire(make_domain_nodes(self._store, dom0, domain, name))
        self._watches.fire_special("@introduceDomain")

    def _remove_domain(self, domid: int) -> None:
        dom0, domain = self._store.domains.get(0), self._store.domains.get(domid)
        if not domid or dom0 is None or domain is None:
            raise ValueError(f"there is no domain {domid} to remove")
        self.release(domid)
        if self._store.tree.get(domain.path) is not None:
            self._watches.fire(self._store.remove(self._store.tree, dom0, domain.path))

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._running:
            for key, events in self._selector.select(self._timeout()):
                if isinstance(key.data, Domain):
                    self._accept(key.data)
                elif isinstance(key.data, Connection):
                    self._socket_event(key.data, events)
                else:
                    self._drain_wake()
            self._run_calls()
            for connection in list(self._ready):
                self._guarded(connection, self._serve)
            self._flush()
            self._resume_listeners()
        self._fail_calls()

    def _timeout(self) -> float | None:
        if self._ready:
            return 0
        return _ACCEPT_RETRY_SECONDS if self._refused else None

    def _socket_event(self, connection: Connection, events: int) -> None:
        if connection not in self._connections:
            return
        self._unflushed.add(connection)
        if events & selectors.EVENT_READ and not connection.has_request:
            self._guarded(connection, self._receive)

    def _receive(self, connection: Connection) -> None:
        if not connection.receive():
            self._close(connection)
        elif connection.has_request:
            self._ready.add(connection)

    def _serve(self, connection: Connection) -> None:
        """A few requests of one connection, so that none can keep the others waiting for long."""
        for _ in range(_REQUESTS_PER_TURN):
            request = None if connection.paused else connection.next_request()
            if request is None:
                break
            self._dispatcher.handle(connection, request)
            if connection not in self._connections:  # it released its own domain
                return
        self._unflushed.add(connection)

    def _flush(self) -> None:
        while self._unflushed:
            self._guarded(self._unflushed.pop(), self._flush_one)

    def _flush_one(self, connection: Connection) -> None:
        connection.send()
        if connection.overflowed:
            log.warning("xenstore_client_does_not_read", domid=connection.domain.domid)
            self._close(connection)
            return
        wanted = (0 if connection.paused else selectors.EVENT_READ) | (
            selectors.EVENT_WRITE if connection.has_unsent else 0
        )
        if self._selector.get_key(connection.sock).events != wanted:
            self._selector.modify(connection.sock, wanted, connection)
        if connection.has_request and not connection.paused:
            self._ready.add(connection)
        else:
            self._ready.discard(connection)

    def _guarded(self, connection: Connection, action: Callable[[Connection], None]) -> None:
        """Whatever goes wrong with one connection costs only that connection."""
        if connection not in self._connections:
            return
        try:
            action(connection)
        except FramingError:
            log.warning("xenstore_client_broke_framing", domid=connection.domain.domid)
            self._close(connection)
        except OSError:
            self._close(connection)
        except Exception:  # a defect here must not take the store away from every other domain
            log.exception("xenstore_request_failed", domid=connection.domain.domid)
            self._close(connection)

    # ---- sockets -------------------------------------------------------------------------------------------------

    def _listen(self, domid: int) -> socket.socket:
        path = self.socket_path(domid)
        if len(bytes(path)) > _SUN_PATH_BYTES:
            raise ValueError(f"{path} is longer than the {_SUN_PATH_BYTES} bytes that a socket's name may have")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._unlink_stale(path)
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(64)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener

    def _unlink_stale(self, path: Path) -> None:
        """Remove the socket of a server that has died; refuse if one still listens there."""
        if not path.is_socket():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
                raise OSError(errno.EADDRINUSE, "another server listens there", str(path))
        path.unlink()

    def _accept(self, domain: Domain) -> None:
        listener = self._listeners.get(domain.domid)
        if listener is None:
            return
        try:
            sock = listener.accept()[0]
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # no file descriptor left: look away for a moment instead of spinning
            self._refused.add(domain.domid)
            self._selector.unregister(listener)
            return
        limits = self._limits
        if domain.connections >= (limits.connections_privileged_max if domain.privileged else limits.connections_max):
            sock.close()
            return
        sock.setblocking(False)
        connection = Connection(sock, domain, limits, self._unflushed.add)
        domain.connections += 1
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _resume_listeners(self) -> None:
        for domid in self._refused:
            listener, domain = self._listeners.get(domid), self._store.domains.get(domid)
            if listener is not None and domain is not None:
                self._selector.register(listener, selectors.EVENT_READ, domain)
        self._refused.clear()

    def _close(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._ready.discard(connection)
        self._unflushed.discard(connection)
        self._dispatcher.drop_state(connection)
        connection.domain.connections -= 1
        self._selector.unregister(connection.sock)
        connection.sock.close()

    def _close_listener(self, domid: int) -> None:
        listener = self._listeners.pop(domid)
        if domid in self._refused:
            self._refused.discard(domid)
        else:
            self._selector.unregister(listener)
        listener.close()
        self.socket_path(domid).unlink(missing_ok=True)

    def _close_all(self) -> None:
        for connection in list(self._connections):
            self._close(connection)
        for domid in list(self._listeners):
            self._close_listener(domid)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    # ---- calls from other threads --------------------------------------------------------------------------------

    def _call(self, action: Callable[[], None]) -> None:
        """Run `action` in the server's thread and wait for it; its exception is raised here."""
        done: Future[None] = Future()
        with self._calls_lock:
            if not self._running:
                raise RuntimeError("the XenStore server does not run")
            self._calls.append((action, done))
        self._wake()
        done.result()

    def _run_calls(self) -> None:
        while self._calls:
            action, done = self._calls.popleft()
            try:
                action()
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _fail_calls(self) -> None:
        while self._calls:
            self._calls.popleft()[1].set_exception(RuntimeError("the XenStore server was stopped"))

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake already
            self._wake_write.send(b"\0")

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_read.recv(4096):
                pass
