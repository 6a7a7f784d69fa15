# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong with one device: reported in its directory and in the log, and tried again if XenStore refused it."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from xen_shadowvq.errors import XENSTORE_TROUBLE, ShadowVQError
from xen_shadowvq.log import RateLimited
from xen_shadowvq.pace import Backoff
from xen_shadowvq.publish import rewrite
from xen_shadowvq.quotas import reason_of
from xen_shadowvq.xenstore import XenStore

complaints = RateLimited(interval_s=1.0)
waits = RateLimited(interval_s=60.0)


class Trouble:
    """The trouble of the device with the directory `path`, which has `key` in the log. Only XenStoreGone is raised."""

    def __init__(self, store: XenStore, path: str, log: FilteringBoundLogger, key: tuple[int, int]) -> None:
        self._store = store
        self._path = path
        self._log = log
        self._key = key
        self._again = Backoff()
        self._fresh = False  # XenStore has refused something since `begin`
        self._unsaid: dict[str, str] = {}  # texts of nodes that could not be written yet

    @property
    def due(self) -> float | None:
        """When to try again what was refused."""
        return self._again.due

    def begin(self) -> None:
        """Notes that everything is about to be tried."""
        self._fresh = False

    def end(self) -> None:
        """Notes that everything was tried."""
        self.say()
        if not self._fresh:
            self._again.reset()

    def broken(self, error: ShadowVQError) -> None:
        """A peer broke the device: it has to close."""
        reason = reason_of(error, self._path)
        complaints.warning(self._log, "device_broken", key=self._key, reason=reason)
        self._unsaid = {"error": reason, "needs_reset": "1"}
        self.say()

    def not_begun(self, error: ShadowVQError) -> None:
        """It cannot be taken up yet."""
        self._unsaid = {"error": str(error)}
        self.waits(error)

    def waits(self, error: ShadowVQError) -> None:
        """Something has to be tried again, after a pause that grows."""
        if not self._fresh:
            self._again.fail()
        self._fresh = True
        self.mention(error)

    def mention(self, error: ShadowVQError | None) -> None:
        """Logs why something takes longer."""
        if error is not None:
            reason = reason_of(error, self._path)
            waits.warning(self._log, "device_waits", key=(*self._key, reason), reason=reason)

    def over(self) -> None:
        """Withdraws what was reported, since it no longer holds. Raises XenStoreError."""
        rewrite(self._store, self._path, error="")
        self._unsaid.clear()

    def say(self) -> None:
        """Writes what the operator and the frontend should know, as soon as XenStore takes it."""
        if not self._unsaid:
            return
        try:
            rewrite(self._store, self._path, **self._unsaid)
            self._unsaid.clear()
        except XENSTORE_TROUBLE as error:
            self.waits(error)
