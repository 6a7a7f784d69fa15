# SPDX-License-Identifier: GPL-2.0-or-later
"""
Pages of ended requests that a backend keeps mapped: ending them is retried with growing pauses, and they are published.

Nothing that we could do takes them from the backend: it unmaps them, or its domain ends (docs/protocol.md, "When the
frontend has its buffers back").
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import partial

from structlog.typing import FilteringBoundLogger

from xen_shadowvq.engine import sweep
from xen_shadowvq.errors import HypervisorError, XenStoreError
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.life import Life
from xen_shadowvq.pace import Backoff
from xen_shadowvq.publish import Entry, publish
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes

Heads = Mapping[int, bytes]
"""For each queue, the requests that have held pages: one bit for each head."""


class HeldPages:
    """
    The held pages of one device, in the mediator's directory `path` on leg 1.

    `end_again` tries to end all that is left and returns how many pages are still held. `heads` says which requests
    have them; None: nobody knows any more, it may be any.
    """

    def __init__(
        self,
        store: XenStore,
        path: str,
        log: FilteringBoundLogger,
        end_again: Callable[[], int],
        heads: Callable[[], Heads] | None,
    ) -> None:
        self.pages = 0
        self._store = store
        self._path = path
        self._log = log
        self._end_again = end_again
        self._heads = heads
        self._pause = Backoff()
        self._published: tuple[int, Heads] | None = None

    @property
    def due(self) -> float | None:
        """When to try again."""
        return self._pause.due

    def let_go(self, *, at_once: bool = False) -> bool:
        """
        Tries to end what is left, if it is time or `at_once`. Returns True if nothing is held, or published as held.
        """
        if not (at_once or self._pause.is_due):
            return False
        self._pause.fail()  # whatever goes wrong below
        before, self.pages = self.pages, self._end_again()
        if self.pages:
            if not before:
                self._log.warning("pages_held", pages=self.pages)
            self._publish(self.pages, self._heads() if self._heads else {})
            return False
        clear(self._store, self._path)
        if before:
            self._log.info("pages_let_go")
        self._pause.reset()
        return True

    def _publish(self, pages: int, heads: Heads) -> None:
        if (pages, heads) == self._published:
            return
        back = nodes.VirtioBack
        entries: list[Entry] = [(back.QUEUE_HELD, bits, queue) for queue, bits in heads.items()]
        said = _said(self._store, self._path)
        try:
            publish(self._store, self._path, [*entries, (back.HELD_PAGES, pages)], instead_of=said)
        except XenStoreError as error:
            if error.errno != errno.ENOSPC:
                raise
            publish(self._store, self._path, [(back.HELD_PAGES, pages)], instead_of=said)  # no room to say whose
        self._published = pages, heads


def clear(store: XenStore, path: str) -> None:
    """Removes what a directory says about held pages, since that is over."""
    said, pages = _said(store, path), nodes.VirtioBack.HELD_PAGES
    if said or pages.read(store.read, path):
        publish(store, path, [(pages, 0)], instead_of=said)


def _said(store: XenStore, path: str) -> list[str]:
    """The nodes that say which requests have held pages, perhaps those of an earlier connection."""
    queues = [name for name in store.ls(path) if name.startswith("queue-")]
    return [node for node in (f"{path}/{queue}/held" for queue in queues) if store.read(node) is not None]


class Leftovers:
    """
    What earlier mediators granted for a device: the entries of its frontend's grant table with `mark`. It also counts
    the pages that the last mediator reported in `held-pages` of our directory `path` but that no entry accounts for:
    the frontend overwrote their entries, and until the backend's domain ends nobody can tell whether it has them
    mapped.
    """

    def __init__(
        self, store: XenStore, path: str, hypervisor: Hypervisor, frontend_domid: int, mark: int, backend: Life | None
    ) -> None:
        """`backend` None: it is not known which domain that is, so it counts as alive."""
        self.freed = 0
        self._sweep = partial(sweep, hypervisor, frontend_domid, [mark])
        self._said = partial(nodes.VirtioBack.HELD_PAGES.read, store.read, path)
        self._backend = backend
        self._lost: int | None = None  # known once the first sweep is done

    def end(self) -> int:
        """
        Ends all that it can and returns how many pages are held. A domain that is gone has no grants. HypervisorError:
        nothing is known.
        """
        try:
            swept = self._sweep()
        except HypervisorError as error:
            if error.errno != errno.ESRCH:
                raise
            return 0
        self.freed += swept.freed
        if self._lost is None:
            self._lost = max(0, (self._said() or 0) - swept.freed - swept.held)
        if self._lost and self._backend is not None and not self._backend.goes_on():
            self._lost = 0
        return swept.held + self._lost
