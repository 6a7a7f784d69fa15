# SPDX-License-Identifier: GPL-2.0-or-later
"""
Answers on request: the toolstack counts a number in one node on, the service answers with that number in another.

Any number of people may ask at once: a later request takes the place of an earlier one in the node, and its answer,
being made after all of them, is the answer to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xen_shadowvq.pace import Rate
from xen_shadowvq.publish import publish
from xen_shadowvq.xenstore import XenStore
from xenstore_schema.spec import Node

_BURST, _PER_S = 20, 20.0
_NUMBERS = 1 << 32


def next_request(number: int) -> int:
    """The one after it; 0 is none."""
    return number % (_NUMBERS - 1) + 1


def is_answered(request: int, untrusted_nonce: object) -> bool:
    """Whether an answer with this nonce was made after the request: it is an answer to that one, or to a later one."""
    if type(untrusted_nonce) is not int or not 0 < untrusted_nonce < _NUMBERS:
        return False
    return (untrusted_nonce - request) % _NUMBERS < _NUMBERS // 2


class Answer:
    """What one device's service has answered so far. `request` and `answer` are nodes of the directory `path`."""

    def __init__(self, store: XenStore, path: str, request: Node[int], answer: Node[Any]) -> None:
        self.rate = Rate(_BURST, _PER_S)
        """Requests that come faster are answered later, all of them by the answer to the latest."""
        self._store = store
        self._path = path
        self._request = request
        self._answer = answer
        self._answered: int | None = None
        self.asked: int | None = None
        """The request that is being answered; later ones wait until it is."""

    def look(self, report: Callable[[], Mapping[str, object] | None]) -> None:
        """
        Answers a new request, if there is one. `report` is called only then; None: it is not known yet, look again
        when it is.
        """
        self.rate.forget()
        nonce = self._request.read(self._store.read, self._path)
        if not nonce or (self.asked is not None and not self._answer_with(report)):
            return
        if nonce != self._answered and self.rate.take():
            self.asked = nonce
            self._answer_with(report)

    def _answer_with(self, report: Callable[[], Mapping[str, object] | None]) -> bool:
        found = report()
        if found is None:
            return False
        publish(self._store, self._path, [(self._answer, {"nonce": self.asked, **found})])
        self._answered, self.asked = self.asked, None
        return True
