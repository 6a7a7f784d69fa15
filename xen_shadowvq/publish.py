# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing a directory's nodes, all of them in one transaction and formatted by their own schema, and removing them."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any

from xen_shadowvq.errors import XenStoreError
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


def withdraw(store: XenStore, dir_path: str) -> None:
    """Removes a device's directory, and the one above it (that of all devices of that peer) when it is empty then."""
    store.rm(dir_path)
    parent = dir_path.rpartition("/")[0]

    def work(transaction: Transaction) -> None:
        if not transaction.ls(parent):
            transaction.rm(parent)

    try:
        store.in_transaction(work)
    except XenStoreError as error:
        if error.errno != errno.EACCES:  # not ours: it was not made by our toolstack
            raise
