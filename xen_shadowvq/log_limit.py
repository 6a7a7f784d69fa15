# SPDX-License-Identifier: GPL-2.0-or-later
"""A guard so that no peer can fill the disk with log lines: every line about a peer passes through it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import structlog
from structlog.typing import EventDict, WrappedLogger

from xen_shadowvq.pace import Rate

KEYS_MAX = 4096  # devices and peers that are remembered; some are chosen by peers
OF_A_DEVICE = 100, 0.5
OF_A_PEER = 400, 1.0
"""That many lines at once, then that many a second: some 20 MB a day at most."""
PEER_FACTS = "domid", "peer"


@dataclass
class Account:
    """Lines that somebody causes: how many are let through, and how many were left out since the last that was."""

    rate: Rate
    left_out: int = 0


class PeerLines:
    """
    A processor. A line with the fact `domid` or `peer` is about that domain, with `device` about one of its devices.
    Lines beyond the rate are left out, and the next line about that device says how many (`left_out`).
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: OrderedDict[Hashable, Account] = OrderedDict()

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        peer = next((event[name] for name in PEER_FACTS if name in event), None)
        if peer is None:
            return event
        with self._lock:
            device = self._account((peer, event.get("device")), *OF_A_DEVICE)
            left_out = device.left_out + event.get("left_out", 0)
            if not (device.rate.take() and self._account(peer, *OF_A_PEER).rate.take()):
                device.left_out = left_out + 1
                raise structlog.DropEvent
            device.left_out = 0
        if left_out:
            event["left_out"] = left_out
        return event

    def _account(self, key: Hashable, burst: int, per_s: float) -> Account:
        account = self._accounts.setdefault(key, Account(Rate(burst, per_s, self._clock)))
        self._accounts.move_to_end(key)
        if len(self._accounts) > KEYS_MAX:
            self._accounts.popitem(last=False)
        return account
