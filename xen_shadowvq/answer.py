# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers on request: the toolstack writes a number to one node, the service answers with that number in another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from xen_shadowvq.xenstore import XenStore
from xenstore_schema.spec import Node


class Answer:
    """What one device's service has answered so far. `request` and `answer` are nodes of the directory `path`."""

    def __init__(self, store: XenStore, path: str, request: Node[int], answer: Node[Any]) -> None:
        self._store = store
        self._path = path
        self._request = request
        self._answer = answer
        self._answered: int | None = None

    def look(self, report: Callable[[], Mapping[str, object]]) -> None:
        """Answers a new request, if there is one. `report` is called only then, once for each."""
        nonce = self._request.read(self._store.read, self._path)
        if nonce is None or nonce == self._answered:
            return
        self._answered = nonce
        self._store.write(self._answer.path(self._path), self._answer.format({"nonce": nonce, **report()}))
