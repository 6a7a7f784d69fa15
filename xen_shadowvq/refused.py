# SPDX-License-Identifier: GPL-2.0-or-later
"""What takes the place of a device that cannot be served: it tells both peers why, until it is removed."""

from __future__ import annotations

import time

from xen_shadowvq.errors import XENSTORE_TROUBLE
from xen_shadowvq.pace import Backoff
from xen_shadowvq.publish import rewrite, withdraw
from xen_shadowvq.service import touches
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import State


class Refused:
    """See the module, and service.ServedDevice for the calls."""

    watched_roots: tuple[str, ...] = ()

    def __init__(self, store: XenStore, path: str, reason: str) -> None:
        self.gone = False
        self._store = store
        self._path = path
        self._reason = reason
        self._said: set[State] = set()
        self._pause = Backoff()

    @property
    def due(self) -> float | None:
        return self._pause.due

    def concerns(self, path: str) -> bool:
        return touches(path, {self._path: ("online",)})

    def begin(self) -> None:
        self.look()

    def look(self, *, domain_died: bool = False) -> None:
        """Closes the device, and removes it once the toolstack asks for that."""
        del domain_died
        self._pause.fail()  # whatever goes wrong below
        try:
            if self._store.read(f"{self._path}/state") is None:
                self.gone = True
                return
            ended = self._try_to_close()
            if ended is not False and self._store.read(f"{self._path}/online") == "0":
                withdraw(self._store, self._path)  # dom0 takes back what is left, before it tells the guest
                self.gone = True
            elif not ended:
                return
        except XENSTORE_TROUBLE:
            return
        self._pause.reset()

    def tick(self) -> None:
        if time.monotonic() >= (self._pause.due or 0.0):
            self.look()

    def check_fault(self) -> None:
        return

    def wind_down(self) -> bool:
        return True

    def release(self) -> None:
        return

    def _try_to_close(self) -> bool | None:
        """Whether nothing of an earlier connection is alive; if so, says Closed. None: nobody can tell."""
        self._say(State.Closed)
        return True

    def _say(self, state: State) -> None:
        if state not in self._said:
            rewrite(self._store, self._path, error=self._reason, state=str(int(state)))
            self._said.add(state)
