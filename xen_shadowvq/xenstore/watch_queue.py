# SPDX-License-Identifier: GPL-2.0-or-later
"""Watch events between the thread that receives them and the one that acts on them: coalesced, bounded, never lost."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass

from xen_shadowvq.errors import XenStoreGone


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """Something changed at `path`, below a watch with `token`.

    With `rescan` the path is empty: there was too much, or the connection was lost in between, so look at everything
    that the token stands for.
    """

    path: str
    token: str
    rescan: bool = False


class WatchQueue:
    """The registered watches and their pending events.

    An event that is pending already is not added again. A token with more than `paths_per_token_max` different paths
    pending gets one rescan event in their place (XSA-349), so a peer that writes a lot costs neither memory nor the
    events of other tokens. Every method may be called from any thread.
    """

    def __init__(self, paths_per_token_max: int = 64) -> None:
        self._paths_per_token_max = paths_per_token_max
        self._changed = threading.Condition()
        self._watches: dict[tuple[str, str], None] = {}
        # By token and path, in order of arrival; the path is None for a rescan.
        self._pending: dict[tuple[str, str | None], WatchEvent] = {}
        self._pending_paths: dict[str, int] = {}
        self._failure: str | None = None
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __len__(self) -> int:
        with self._changed:
            return len(self._pending)

    def fileno(self) -> int:
        """A descriptor that is readable while get() would return an event or raise; only for poll and the like."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor; the queue must not be used afterwards."""
        with self._changed:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def watches(self) -> list[tuple[str, str]]:
        """(path, token) of every registered watch."""
        with self._changed:
            return list(self._watches)

    def expect(self, path: str, token: str) -> bool:
        """Register a watch, so that its events are let in; False if it is registered already."""
        with self._changed:
            if (path, token) in self._watches:
                return False
            self._watches[path, token] = None
            return True

    def forget(self, path: str, token: str) -> bool:
        """Remove a watch and those pending events that came only from it; False if there is no such watch."""
        with self._changed:
            if (path, token) not in self._watches:
                return False
            del self._watches[path, token]
            for key, event in list(self._pending.items()):
                if event.token == token and not self._is_expected(key[1], token):
                    self._drop(key)
            self._signal()
            return True

    def put(self, path: str, token: str) -> None:
        """Add an event; one that belongs to no registered watch is dropped."""
        with self._changed:
            known = (token, None) in self._pending or (token, path) in self._pending
            if known or not self._is_expected(path, token):
                return
            if self._pending_paths.get(token, 0) >= self._paths_per_token_max:
                self._put_rescan(token)
            else:
                self._pending[token, path] = WatchEvent(path, token)
                self._pending_paths[token] = self._pending_paths.get(token, 0) + 1
            self._signal()

    def rescan(self, token: str) -> None:
        """Replace whatever is pending for a token by one rescan event."""
        with self._changed:
            self._put_rescan(token)
            self._signal()

    def fail(self, reason: str) -> None:
        """From now on get() raises XenStoreGone once it has run out of events."""
        with self._changed:
            self._failure = reason
            self._signal()

    def revive(self) -> None:
        """Undo fail()."""
        with self._changed:
            self._failure = None
            self._signal()

    def get(self, timeout_ms: int) -> WatchEvent | None:
        """The oldest pending event, or None after `timeout_ms`. Raises XenStoreGone after fail()."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._failure is not None, timeout_ms / 1000)
            if self._pending:
                event = self._drop(next(iter(self._pending)))
                self._signal()
                return event
            if self._failure is not None:
                raise XenStoreGone(self._failure)
            return None

    def _is_expected(self, path: str | None, token: str) -> bool:
        return any(token == wanted and _is_below(path, watched) for watched, wanted in self._watches)

    def _put_rescan(self, token: str) -> None:
        for key in [key for key in self._pending if key[0] == token]:
            self._drop(key)
        self._pending[token, None] = WatchEvent("", token, rescan=True)

    def _drop(self, key: tuple[str, str | None]) -> WatchEvent:
        token, path = key
        if path is not None:
            self._pending_paths[token] -= 1
            if not self._pending_paths[token]:
                del self._pending_paths[token]
        return self._pending.pop(key)

    def _signal(self) -> None:
        """Bring the descriptor and the waiting threads up to date."""
        if self._fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._fd)
            if self._pending or self._failure is not None:
                os.eventfd_write(self._fd, 1)
        self._changed.notify_all()


def _is_below(path: str | None, watched: str) -> bool:
    """Whether an event for `path` can come from a watch on `watched`; a rescan (None) can come from any."""
    return path is None or watched in (path, "/") or path.startswith(f"{watched}/")
