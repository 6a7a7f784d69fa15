# SPDX-License-Identifier: GPL-2.0-or-later
"""
Answers on request: the toolstack increments a number in one node, and the service answers with it in another.

Any number of people may ask at once: a later request replaces an earlier one in the node, and one answer, made after
all of them, serves them all.
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
    """Returns the number of the next request. 0 stands for no request, so it is skipped."""
    return number % (_NUMBERS - 1) + 1


def is_answered(request: int, untrusted_nonce: object) -> bool:
    """Whether an answer with this nonce was made after the request, so that it answers that request or a later one."""
    if type(untrusted_nonce) is not int or not 0 < untrusted_nonce < _NUMBERS:
        return False
    return (untrusted_nonce - request) % _NUMBERS < _NUMBERS // 2


class Answer:
    """What one device's service has answered so far. `request` and `answer` are nodes of the directory `path`."""

    def __init__(self, store: XenStore, path: str, request: Node[int], answer: Node[Any]) -> None:
        self.rate = Rate(_BURST, _PER_S)
        """Requests beyond this rate are answered later, all by one answer: that to the latest."""
        self._store = store
        self._path = path
        self._request = request
        self._answer = answer
        self._answered: int | None = None
        self.asked: int | None = None
        """The request that is being answered; later ones wait until it is."""

    def look(self, report: Callable[[], Mapping[str, object] | None]) -> None:
        """
        Answers a new request, if there is one, and calls `report` only then. If `report` returns None, the answer is
        not known yet: call `look` again when it is.
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
