# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing a directory's nodes, all of them in one transaction and formatted by their own schema, and removing them."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import Any

from xen_shadowvq.errors import XenStoreError
from xen_shadowvq.output import node_text
from xen_shadowvq.xenstore import Transaction, XenStore
from xenstore_schema.spec import Node

Entry = tuple[Node[Any], Any] | tuple[Node[Any], Any, int]


def publish(
    store: XenStore,
    dir_path: str,
    entries: Iterable[Entry],
    *others: tuple[str, Iterable[Entry]],
    instead_of: Iterable[str] = (),
) -> bool:
    """
    Writes (node, value[, queue]) entries below the device's directory `dir_path`, and those of `others` below theirs,
    all or none, and in the same moment removes nodes `instead_of` which they stand (their whole paths).

    False: a directory is gone. Then nothing is written, which would make it again, without those who would remove it.
    """
    texts = {
        path: {node.path(path, *indices): node.format(value) for node, value, *indices in listed}
        for path, listed in ((dir_path, entries), *others)
    }
    return _write(store, texts, instead_of)


def rewrite(store: XenStore, dir_path: str, **texts: str) -> bool:
    """
    Writes nodes of a device's directory by their names (`_` for `-`); as `publish`. A text may be a peer's words: what
    is written is its `node_text`, so that no peer can make XenStore refuse it.
    """
    ours = {f"{dir_path}/{name.replace('_', '-')}": node_text(text) for name, text in texts.items()}
    return _write(store, {dir_path: ours}, ())


def _write(store: XenStore, texts: Mapping[str, Mapping[str, str]], instead_of: Iterable[str]) -> bool:
    def work(transaction: Transaction) -> bool:
        if any(transaction.read(f"{path}/state") is None for path in texts):
            return False
        for path in instead_of:
            transaction.rm(path)
        for found in texts.values():
            for path, text in found.items():
                transaction.write(path, text)
        return True

    return store.in_transaction(work)


def withdraw(store: XenStore, dir_path: str) -> None:
    """
    Removes a device's directory, and the one above it (that of all devices of that peer) when it is empty then. At
    once: tried again after a part of it, it would remove what is the next device's of that number by now.
    """
    parent = dir_path.rpartition("/")[0]

    def work(transaction: Transaction) -> None:
        transaction.rm(dir_path)
        if not transaction.ls(parent):
            transaction.rm(parent)

    try:
        store.in_transaction(work)
    except XenStoreError as error:
        if error.errno != errno.EACCES:
            raise
        store.rm(dir_path)  # that above is not ours: it was not made by our toolstack
