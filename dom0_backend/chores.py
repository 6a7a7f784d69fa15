# SPDX-License-Identifier: GPL-2.0-or-later
"""Work on an image, on a thread of its own: it may take as long as the storage likes, forever if that has died."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from xen_shadowvq.errors import XENSTORE_TROUBLE, XenStoreGone

T = TypeVar("T")
Then = Callable[[T | Exception], None]


class Chores:
    """
    Does work in order, one piece at a time, on a thread that exists while there is any. Nobody ever waits for it: what
    follows from a piece is done by whoever calls `settle`, when `done` says so.
    """

    def __init__(self, name: str, done: Callable[[], None]) -> None:
        """`done` is called on that thread."""
        self._name = name
        self._done = done
        self._lock = threading.Lock()
        self._todo: deque[Callable[[], Callable[[], None]]] = deque()  # the first is under way
        self._results: deque[Callable[[], None]] = deque()

    @property
    def busy(self) -> bool:
        """Whether there is unfinished work."""
        return bool(self._todo)

    @property
    def settled(self) -> bool:
        """Whether there is something to `settle`."""
        return bool(self._results)

    def do(self, work: Callable[[], T], then: Then[T]) -> None:
        """Has `work` done, and `then` called with its result, or with what it raised."""

        def piece() -> Callable[[], None]:
            try:
                return partial(then, work())
            except Exception as error:  # `then` decides
                return partial(then, error)

        with self._lock:
            self._todo.append(piece)
            if len(self._todo) > 1:
                return
        # A daemon: the process can end while it hangs
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def settle(self) -> None:
        """Calls what is due. What XenStore refuses stays due."""
        while self._results:
            then = self._results.popleft()
            try:
                then()
            except (*XENSTORE_TROUBLE, XenStoreGone):
                with self._lock:
                    self._results.appendleft(then)
                raise

    def _run(self) -> None:
        while True:
            result = self._todo[0]()
            with self._lock:
                self._results.append(result)
                self._todo.popleft()
                more = bool(self._todo)
            self._done()
            if not more:
                return
