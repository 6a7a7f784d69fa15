# SPDX-License-Identifier: GPL-2.0-or-later
"""A device that the mediator refuses: what an earlier mediator left of it ends before we say Closed."""

from __future__ import annotations

from xen_shadowvq.errors import HypervisorError, PeerProtocolError
from xen_shadowvq.held import HeldPages, Leftovers
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.life import Life
from xen_shadowvq.log import get_logger
from xen_shadowvq.publish import rewrite
from xen_shadowvq.refused import Refused
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import State, nodes


class RefusedShadowDevice(Refused):
    """A refused device of the mediator. Closed says that the frontend has its buffers back, so leftovers end first."""

    def __init__(self, store: XenStore, hypervisor: Hypervisor, path: str, frontend_domid: int, reason: str) -> None:
        super().__init__(store, path, reason)
        self._frontend = Life(store, frontend_domid)
        self._log = get_logger(domid=frontend_domid, path=path)
        self._hypervisor = hypervisor
        self._frontend_domid = frontend_domid
        self._held: HeldPages | None = None

    def _try_to_close(self) -> bool | None:
        try:
            ended = self._close()
        except HypervisorError as error:
            rewrite(self._store, self._path, error=f"{self._reason}; and {error}")
            # no entry may account for pages reported before, so dom0 would not see them
            return False if nodes.VirtioBack.HELD_PAGES.read(self._store.read, self._path) else None
        if ended:
            self._say(State.Closed)
        return ended

    def _close(self) -> bool:
        """Whether nothing of an earlier connection is alive. HypervisorError: nobody can tell."""
        if State.Closed in self._said:
            return True
        held = self._held = self._held or self._leftovers()
        if held is None or not self._frontend.goes_on():
            return True
        ended = held.let_go(at_once=True)
        if not ended:
            self._say(State.Closing)
        return ended

    def _leftovers(self) -> HeldPages | None:
        """What is left of it. None: without a mark, nothing was ever granted for it."""
        try:
            mark = nodes.VirtioBack.GRANT_MARK.read(self._store.read, self._path)
        except PeerProtocolError:
            mark = None
        if mark is None:
            return None
        left = Leftovers(self._store, self._path, self._hypervisor, self._frontend_domid, mark, None)
        return HeldPages(self._store, self._path, self._log, left.end, None)
