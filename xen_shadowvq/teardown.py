# SPDX-License-Identifier: GPL-2.0-or-later
"""
Taking one connection apart, and with it both legs:

  stage           leg 1     data plane            leg 2       goes on when
  --------------  --------  --------------------  ----------  -----------------------------------------------
  DRAINING        Closing   takes no new chains   Connected   nothing is in flight, or it takes too long
  CLOSING_BACK    Closing   the same              Closing     the backend has closed or left, or takes too long
  HELD            Closing   stopped, all ended    Closed      the backend has no page any more: no time limit
  (over)          Closed    freed                 Closed

No stage waits for a guest that is gone. docs/architecture.md has the same table with its reasons.
"""

from __future__ import annotations

import enum
import time

from xen_shadowvq.engine import Device
from xen_shadowvq.held import HeldPages
from xen_shadowvq.legs import BackLeg, FrontLeg
from xen_shadowvq.xenbus import Event

POLL_S = 0.005


class _Stage(enum.Enum):
    DRAINING = "draining"
    CLOSING_BACK = "closing-back"
    HELD = "held"


class Teardown:
    """
    See the module. `advance` may be called at any time, and again after an exception.

    Args:
        device: what is taken apart: it is stopped here, and closed by its owner. None: an earlier mediator had it.
        held: the held pages of that device.
        front: the leg to the frontend. If that domain is gone, nobody waits for its held pages, which stay with it.
        back: the leg to the backend. If that domain is gone, it has nothing mapped.
        timeout_s: how long the backend may take to end its requests, and again to close its side.
        drain: whether there is somebody who would end requests, and somebody to end them for.
    """

    def __init__(
        self,
        device: Device | None,
        held: HeldPages,
        front: FrontLeg,
        back: BackLeg,
        timeout_s: float,
        *,
        drain: bool,
    ) -> None:
        self.held = held
        self._device = device
        self._front, self._back = front, back
        self._timeout_s = timeout_s
        self._stage = _Stage.DRAINING if device else _Stage.HELD
        self._deadline = time.monotonic() + (timeout_s if drain else 0.0)
        self._poll_at = 0.0

    @property
    def due(self) -> float | None:
        """When to call `advance`."""
        return self.held.due if self._stage is _Stage.HELD else self._poll_at

    def advance(self, *, domain_died: bool = False) -> bool:
        """Goes on as far as it can. Returns True once nothing is held, or the guest is gone."""
        late = domain_died and not self._front.peer.goes_on()
        self._poll_at = time.monotonic() + POLL_S
        if self._stage is _Stage.DRAINING:
            if not (late or self._is_late or self._is_drained):
                return False
            self._stage, self._deadline = _Stage.CLOSING_BACK, time.monotonic() + self._timeout_s
            self._back.feed(Event.FAULT)
        if self._stage is _Stage.CLOSING_BACK:
            if not (late or self._is_late or self._back.has_closed()):
                return False
            self._stop()
        if not self._front.peer.goes_on():
            return True
        if self._device and not self._back.peer.goes_on():
            self._device.grantee_gone()
        return self.held.let_go(at_once=domain_died)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() >= self._deadline

    @property
    def _is_drained(self) -> bool:
        return self._device is None or self._device.fault() is not None or self._device.drain() == 0

    def _stop(self) -> None:
        """
        From here on the backend's rings are dead: a backend that was merely slow may now release them, and all else.
        """
        if self._device:
            self._device.stop()
        self._stage = _Stage.HELD
        self._back.feed(Event.STOPPED)
