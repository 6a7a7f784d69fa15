# SPDX-License-Identifier: GPL-2.0-or-later
"""
What mediators still have for guests that no longer exist.

dom0's records of these devices ended with their guests, so all there is to go by is what a mediator's domain lists.
That may be invented: what is done and logged for one mediator is limited, whatever it lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from structlog.typing import FilteringBoundLogger

from xen_shadowvq.apply_plan import Seen
from xen_shadowvq.dom0 import MARKS, Dom0, numbers
from xen_shadowvq.errors import XENSTORE_TROUBLE
from xen_shadowvq.log_limit import Account
from xen_shadowvq.pace import Rate
from xen_shadowvq.xenstore import Transaction
from xenstore_schema import nodes

ASKED_AT_ONCE = len(MARKS)
"""Devices that one look asks a mediator to remove, as many as a guest can have. The next look goes on with the rest."""

LINES, LINES_PER_S = 20, 0.1
"""For one mediator: that many lines at once, then that many a second."""


def let_the_dead_go(dom0: Dom0, seen: Seen) -> dict[int, list[tuple[int, int]]]:
    """
    Asks mediators to remove what they have for guests that no longer exist, and returns, for each mediator, (guest,
    device) of what it was asked for. A mediator that was running when its guest died has done so already. One outside
    dom0 that starts later cannot tell that the guest is dead, and would keep the image locked against the guest's next
    life.
    """
    return {mediator: list(islice(_ask_for_all(dom0, seen, mediator), ASKED_AT_ONCE)) for mediator in seen.domains}


def _ask_for_all(dom0: Dom0, seen: Seen, mediator: int) -> Iterator[tuple[int, int]]:
    root = nodes.virtio_back_root(mediator=mediator)
    try:
        for guest in numbers(dom0.store, root):
            if guest not in seen.domains and not dom0.store.is_domain_introduced(guest):
                left = numbers(dom0.store, f"{root}/{guest}")
                yield from ((guest, device) for device in left if _ask_to_remove(dom0, mediator, guest, device))
    except XENSTORE_TROUBLE:
        return  # a mediator that interferes keeps no other guest from its disks; it is asked again


def _ask_to_remove(dom0: Dom0, mediator: int, guest: int, device: int) -> bool:
    """Returns False if there is nothing to remove, or if the mediator was asked before."""
    path = nodes.virtio_back_path(mediator=mediator, frontend=guest, device=device)
    online = nodes.VirtioBack.ONLINE.path(path)

    def work(t: Transaction) -> bool:
        if t.read(f"{path}/state") is None or t.read(online) == "0":
            return False
        t.write(online, "0")
        return True

    return dom0.store.read(online) != "0" and dom0.store.in_transaction(work)


class DeadGuests:
    """Does this again and again, and logs it."""

    def __init__(self, dom0: Dom0, log: FilteringBoundLogger) -> None:
        self._dom0 = dom0
        self._log = log
        self._lines: dict[int, Account] = {}

    def look(self, seen: Seen) -> None:
        """As `let_the_dead_go`. Lines beyond a mediator's rate are left out, and its next line says how many."""
        asked = let_the_dead_go(self._dom0, seen)
        self._lines = {mediator: self._lines.get(mediator) or Account(Rate(LINES, LINES_PER_S)) for mediator in asked}
        for mediator, devices in asked.items():
            for domid, device in devices:
                self._say(self._lines[mediator], {"mediator": mediator, "domid": domid, "device": device})

    def _say(self, lines: Account, facts: dict[str, int]) -> None:
        if not lines.rate.take():
            lines.left_out += 1
            return
        if lines.left_out:
            facts["left_out"] = lines.left_out
        lines.left_out = 0
        self._log.info("dead_guests_device_withdrawn", **facts)
