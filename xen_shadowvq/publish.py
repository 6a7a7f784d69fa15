# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing a directory's nodes: all of them in one transaction, formatted by their own schema."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xen_shadowvq.xenstore import Transaction, XenStore
from xenstore_schema.spec import Node

Entry = tuple[Node[Any], Any] | tuple[Node[Any], Any, int] | tuple[Node[Any], Any, int, int]


def publish(store: XenStore, dir_path: str, entries: Iterable[Entry]) -> None:
    """Writes (node, value[, queue[, page]]) entries below `dir_path`, all or none."""
    texts = [(node.path(dir_path, *indices), node.format(value)) for node, value, *indices in entries]

    def work(transaction: Transaction) -> None:
        for path, text in texts:
            transaction.write(path, text)

    store.in_transaction(work)
