# SPDX-License-Identifier: GPL-2.0-or-later
"""The watches of all connections, and who hears of a change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from xen_shadowvq.embedded.xs_domain import Access, Domain, Perm
from xen_shadowvq.embedded.xs_wire import PAYLOAD_BYTES_MAX, Message, Op

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xen_shadowvq.embedded.xs_tree import Change


SPECIAL: Final = ("@introduceDomain", "@releaseDomain")


class Watcher(Protocol):
    """What a watch needs to know of its connection."""

    @property
    def domain(self) -> Domain:
        """Whose connection it is."""

    def send_event(self, message: Message) -> None:
        """Queue a WATCH_EVENT."""


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """One watch. `hidden` is how many leading characters of a path the watcher does not get (relative watches)."""

    watcher: Watcher
    path: str
    token: bytes
    hidden: int
    serial: int

    def event(self, path: str) -> Message | None:
        """The event for a change at `path`; None when it would not fit in a message."""
        name = path[self.hidden :]
        if self.hidden:
            name = name.removeprefix("/")
        payload = name.encode("latin-1") + b"\0" + self.token + b"\0"
        return Message(Op.WATCH_EVENT, 0, 0, payload) if len(payload) <= PAYLOAD_BYTES_MAX else None


class WatchRegistry:
    """Watches by path. Counts each domain's watches; the quota is the caller's to check."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Watch]] = {}
        self._serial = 0
        # Who may hear of domains coming and going: dom0, until it says otherwise.
        self.special_perms: dict[str, tuple[Perm, ...]] = dict.fromkeys(SPECIAL, (Perm(Access.NONE, 0),))

    def find(self, watcher: Watcher, path: str, token: bytes) -> Watch | None:
        """The watcher's own watch with that path and token."""
        for watch in self._by_path.get(path, ()):
            if watch.watcher is watcher and watch.token == token:
                return watch
        return None

    def add(self, watcher: Watcher, path: str, token: bytes, relative: bool) -> Watch:
        """Add a watch; `path` is absolute or special."""
        self._serial += 1
        watch = Watch(watcher, path, token, len(watcher.domain.path) if relative else 0, self._serial)
        self._by_path.setdefault(path, []).append(watch)
        watcher.domain.watches += 1
        return watch

    def remove(self, watch: Watch) -> None:
        """Remove a watch that is there."""
        watches = self._by_path[watch.path]
        watches.remove(watch)
        if not watches:
            del self._by_path[watch.path]
        watch.watcher.domain.watches -= 1

    def remove_all(self, watcher: Watcher) -> None:
        """Remove every watch of a connection."""
        for watch in [w for watches in self._by_path.values() for w in watches if w.watcher is watcher]:
            self.remove(watch)

    def fire(self, changes: Iterable[Change]) -> None:
        """Tell everyone who watches and may read the node, or its parent."""
        for change in changes:
            for watch in self._concerned(change):
                domain = watch.watcher.domain
                if any(domain.access_to(perms) & Access.READ for perms in change.witnesses):
                    self._send(watch, change.path)

    def fire_special(self, name: str) -> None:
        """Tell who watches @introduceDomain or @releaseDomain and is allowed to."""
        for watch in list(self._by_path.get(name, ())):
            if watch.watcher.domain.access_to(self.special_perms[name]) & Access.READ:
                self._send(watch, name)

    def forget_domain(self, domid: int) -> None:
        """A domain is gone: its say about the special watches must not pass to a later domain of its id."""
        for name, perms in self.special_perms.items():
            owner = Perm(perms[0].access, 0) if perms[0].domid == domid else perms[0]
            self.special_perms[name] = (owner, *(perm for perm in perms[1:] if perm.domid != domid))

    def send_first(self, watch: Watch) -> None:
        """The event that every new watch gets at once, whether or not there is such a node."""
        self._send(watch, watch.path)

    def _send(self, watch: Watch, path: str) -> None:
        message = watch.event(path)
        if message is not None:
            watch.watcher.send_event(message)

    def _concerned(self, change: Change) -> list[Watch]:
        found = [watch for path in _watched_paths(change) for watch in self._by_path.get(path, ())]
        return sorted(found, key=lambda watch: watch.serial)


def _watched_paths(change: Change) -> Iterator[str]:
    path = change.path
    yield path
    while not change.exact and path != "/":
        path = path[: path.rindex("/")] or "/"
        yield path
