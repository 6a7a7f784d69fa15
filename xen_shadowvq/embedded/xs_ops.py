# SPDX-License-Identifier: GPL-2.0-or-later
"""The requests of the XenStore protocol: from a message and the connection it came on, to the answer."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from xen_shadowvq.embedded.xs_domain import Access
from xen_shadowvq.embedded.xs_tree import Change, Transaction, View
from xen_shadowvq.embedded.xs_wire import (
    DOMID_FIRST_RESERVED,
    DOMID_SELF,
    PAYLOAD_BYTES_MAX,
    Message,
    Op,
    XsError,
    error_reply,
    number,
    one_string,
    reply,
    strings,
)

if TYPE_CHECKING:
    from xen_shadowvq.embedded.xs_domain import Domain
    from xen_shadowvq.embedded.xs_store import Store
    from xen_shadowvq.embedded.xs_watch import WatchRegistry


_OK: Final = b"OK\0"
_ID_MAX: Final = 2**32 - 1


class Session(Protocol):
    """The connection, as far as requests know of it; also a Watcher."""

    transactions: dict[int, Transaction]
    next_transaction_id: int

    @property
    def domain(self) -> Domain:
        """Whose connection it is."""

    def send_event(self, message: Message) -> None:
        """Queue a WATCH_EVENT."""

    def send_reply(self, message: Message) -> None:
        """Queue an answer."""


class Toolstack(Protocol):
    """Domains coming and going, which needs sockets and so is the server's business."""

    def introduce(self, domid: int) -> None:
        """Let a domain connect; one that is there already starts afresh."""

    def release(self, domid: int) -> None:
        """Disconnect a domain and forget it."""


class Dispatcher:
    """Carries out requests. One per server; all state lives in the store, the watches and the sessions."""

    def __init__(self, store: Store, watches: WatchRegistry, toolstack: Toolstack) -> None:
        self._store = store
        self._watches = watches
        self._toolstack = toolstack
        self._handlers: dict[int, Callable[[Session, Message], None]] = {
            Op.DIRECTORY: self._directory,
            Op.READ: self._read,
            Op.GET_PERMS: self._get_perms,
            Op.WATCH: self._watch,
            Op.UNWATCH: self._unwatch,
            Op.TRANSACTION_START: self._transaction_start,
            Op.TRANSACTION_END: self._transaction_end,
            Op.INTRODUCE: self._introduce,
            Op.RELEASE: self._release,
            Op.GET_DOMAIN_PATH: self._get_domain_path,
            Op.WRITE: self._write,
            Op.MKDIR: self._mkdir,
            Op.RM: self._rm,
            Op.SET_PERMS: self._set_perms,
            Op.IS_DOMAIN_INTRODUCED: self._is_domain_introduced,
            Op.SET_TARGET: self._set_target,
            Op.RESET_WATCHES: self._reset_watches,
            Op.DIRECTORY_PART: self._directory_part,
        }
        self._privileged = {Op.INTRODUCE, Op.RELEASE, Op.IS_DOMAIN_INTRODUCED, Op.SET_TARGET}
        self._without_transaction = {Op.WATCH, Op.UNWATCH}

    def handle(self, session: Session, request: Message) -> None:
        """Carry out one request and queue its answer; whatever is wrong with it becomes an ERROR answer."""
        try:
            handler = self._handlers.get(request.type)
            if handler is None:
                raise XsError(errno.ENOSYS)
            if request.type in self._privileged and not session.domain.privileged:
                raise XsError(errno.EACCES)
            if request.type not in self._without_transaction:
                self._view(session, request)
            handler(session, request)
        except XsError as error:
            session.send_reply(error_reply(request, error.errno))

    def drop_state(self, session: Session) -> None:
        """Forget a session's watches and transactions."""
        self._watches.remove_all(session)
        session.domain.transactions -= len(session.transactions)
        session.transactions.clear()

    # ---- names and views -----------------------------------------------------------------------------------------

    def _view(self, session: Session, request: Message) -> View:
        if request.tx_id == 0:
            return self._store.tree
        transaction = session.transactions.get(request.tx_id)
        if transaction is None:
            raise XsError(errno.ENOENT)
        return transaction

    def _path(self, session: Session, raw: bytes) -> str:
        """Absolute form of a path; whether it is a valid one is checked where it is used."""
        text = raw.decode("latin-1")
        return text if text.startswith(("/", "@")) else f"{session.domain.path}/{text}"

    def _publish(self, view: View, changes: list[Change]) -> None:
        if isinstance(view, Transaction):
            for change in changes:
                view.note_change(change)
        else:
            self._watches.fire(changes)

    # ---- nodes ---------------------------------------------------------------------------------------------------

    def _read(self, session: Session, request: Message) -> None:
        path = self._path(session, one_string(request.payload))
        node = self._store.node(self._view(session, request), session.domain, path, Access.READ)
        session.send_reply(reply(request, node.value))

    def _directory(self, session: Session, request: Message) -> None:
        path = self._path(session, one_string(request.payload))
        node = self._store.node(self._view(session, request), session.domain, path, Access.READ)
        session.send_reply(reply(request, b"".join(child.encode() + b"\0" for child in node.children)))

    def _directory_part(self, session: Session, request: Message) -> None:
        """Whole names from a byte offset on, behind the node's generation; an empty name marks the end of the list."""
        arguments = strings(request.payload)
        if len(arguments) != 2:
            raise XsError(errno.EINVAL)
        path = self._path(session, arguments[0])
        node = self._store.node(self._view(session, request), session.domain, path, Access.READ)
        offset = number(arguments[1])
        names = b"".join(child.encode() + b"\0" for child in node.children)
        head = b"%d\0" % node.generation
        part = names[offset:]
        room = PAYLOAD_BYTES_MAX - len(head) - 1
        if len(part) <= room:
            part += b"\0"
        else:
            part = part[: part.rindex(b"\0", 0, room) + 1]
        session.send_reply(reply(request, head + part))

    def _write(self, session: Session, request: Message) -> None:
        name, nul, value = request.payload.partition(b"\0")
        if not nul:
            raise XsError(errno.EINVAL)
        view = self._view(session, request)
        self._publish(view, self._store.write(view, session.domain, self._path(session, name), value))
        session.send_reply(reply(request, _OK))

    def _mkdir(self, session: Session, request: Message) -> None:
        view = self._view(session, request)
        path = self._path(session, one_string(request.payload))
        self._publish(view, self._store.mkdir(view, session.domain, path))
        session.send_reply(reply(request, _OK))

    def _rm(self, session: Session, request: Message) -> None:
        view = self._view(session, request)
        path = self._path(session, one_string(request.payload))
        self._publish(view, self._store.remove(view, session.domain, path))
        session.send_reply(reply(request, _OK))

    def _get_perms(self, session: Session, request: Message) -> None:
        path = self._path(session, one_string(request.payload))
        node = self._store.node(self._view(session, request), session.domain, path, Access.READ)
        session.send_reply(reply(request, b"".join(perm.format() + b"\0" for perm in node.perms)))

    def _set_perms(self, session: Session, request: Message) -> None:
        arguments = strings(request.payload)
        perms = self._store.checked_perms(session.domain, arguments[1:])
        path = self._path(session, arguments[0])
        if path.startswith("@"):
            old = self._watches.special_perms.get(path)
            if old is None:
                raise XsError(errno.EINVAL)
            need = Access.WRITE | Access.OWNER
            if session.domain.access_to(old) & need != need:
                raise XsError(errno.EACCES)
            self._watches.special_perms[path] = perms
        else:
            view = self._view(session, request)
            self._publish(view, self._store.set_perms(view, session.domain, path, perms))
        session.send_reply(reply(request, _OK))

    # ---- transactions --------------------------------------------------------------------------------------------

    def _transaction_start(self, session: Session, request: Message) -> None:
        domain, limits = session.domain, self._store.limits
        if request.tx_id:
            raise XsError(errno.EBUSY)
        if not domain.privileged and domain.transactions > limits.transactions_max:
            raise XsError(errno.ENOSPC)
        tx_id = session.next_transaction_id
        while tx_id == 0 or tx_id in session.transactions:
            tx_id = (tx_id + 1) & _ID_MAX
        session.next_transaction_id = (tx_id + 1) & _ID_MAX
        session.transactions[tx_id] = Transaction(self._store.tree, domain, limits)
        domain.transactions += 1
        session.send_reply(reply(request, b"%d\0" % tx_id))

    def _transaction_end(self, session: Session, request: Message) -> None:
        verdict = one_string(request.payload)
        if verdict not in (b"T", b"F"):
            raise XsError(errno.EINVAL)
        transaction = session.transactions.pop(request.tx_id, None)
        if transaction is None:
            raise XsError(errno.ENOENT)
        session.domain.transactions -= 1
        if verdict == b"T":
            self._watches.fire(transaction.commit(self._store.domains))
        session.send_reply(reply(request, _OK))

    # ---- watches -------------------------------------------------------------------------------------------------

    def _watch(self, session: Session, request: Message) -> None:
        arguments = strings(request.payload)
        if len(arguments) != 2:
            raise XsError(errno.EINVAL)
        path = self._path(session, arguments[0])
        special = path.startswith("@") and len(path) <= self._store.limits.path_bytes_max
        if not special and not self._store.valid_path(path):
            raise XsError(errno.EINVAL)
        if self._watches.find(session, path, arguments[1]):
            raise XsError(errno.EEXIST)
        domain = session.domain
        if not domain.privileged and domain.watches > self._store.limits.watches_max:
            raise XsError(errno.E2BIG)
        watch = self._watches.add(session, path, arguments[1], relative=not arguments[0].startswith((b"/", b"@")))
        session.send_reply(reply(request, _OK))
        self._watches.send_first(watch)

    def _unwatch(self, session: Session, request: Message) -> None:
        arguments = strings(request.payload)
        if len(arguments) != 2:
            raise XsError(errno.EINVAL)
        watch = self._watches.find(session, self._path(session, arguments[0]), arguments[1])
        if watch is None:
            raise XsError(errno.ENOENT)
        self._watches.remove(watch)
        session.send_reply(reply(request, _OK))

    def _reset_watches(self, session: Session, request: Message) -> None:
        self.drop_state(session)
        session.send_reply(reply(request, _OK))

    # ---- domains -------------------------------------------------------------------------------------------------

    def _get_domain_path(self, session: Session, request: Message) -> None:
        domid = number(one_string(request.payload))
        session.send_reply(reply(request, b"/local/domain/%d\0" % domid))

    def _is_domain_introduced(self, session: Session, request: Message) -> None:
        domid = number(one_string(request.payload))
        there = domid == DOMID_SELF or domid in self._store.domains
        session.send_reply(reply(request, b"T\0" if there else b"F\0"))

    def _introduce(self, session: Session, request: Message) -> None:
        """`domid, gfn, event channel`; only the first means anything here."""
        arguments = strings(request.payload)
        if len(arguments) < 3 or number(arguments[2]) == 0:
            raise XsError(errno.EINVAL)
        domid = number(arguments[0])
        if domid >= DOMID_FIRST_RESERVED:
            raise XsError(errno.EINVAL)
        self._toolstack.introduce(domid)
        session.send_reply(reply(request, _OK))

    def _release(self, session: Session, request: Message) -> None:
        domid = number(one_string(request.payload))
        if domid == 0:
            raise XsError(errno.EINVAL)
        if domid not in self._store.domains:
            raise XsError(errno.ENOENT)
        session.send_reply(reply(request, _OK))
        self._toolstack.release(domid)

    def _set_target(self, session: Session, request: Message) -> None:
        """A device model's domain gets the rights of the domain that it serves."""
        arguments = strings(request.payload)
        if len(arguments) < 2:
            raise XsError(errno.EINVAL)
        domain = self._store.domains.get(number(arguments[0]))
        target = self._store.domains.get(number(arguments[1]))
        if domain is None or target is None:
            raise XsError(errno.ENOENT)
        domain.target = target.domid
        session.send_reply(reply(request, _OK))
