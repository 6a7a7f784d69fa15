# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether another domain still exists, by the word of those whom it cannot influence: xenstored and dom0."""

from __future__ import annotations

import errno

from xen_shadowvq.errors import XenStoreError, XenStoreTimeout
from xen_shadowvq.side import read_of_peer
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes


class Life:
    """
    Tells whether one domain exists. xenstored answers only dom0; elsewhere a domain counts as existing while a
    directory of its own does, which goes when the domain is destroyed. `directory` None: dom0's records of its devices,
    which the mediator may read.
    """

    def __init__(self, store: XenStore, domid: int, directory: str | None = None) -> None:
        self._store = store
        self._domid = domid
        self._directory = directory or nodes.virtio_record_root(frontend=domid)
        self._seen = False  # whether we ever saw that directory: one that never existed says nothing
        self.goes_on()

    def goes_on(self) -> bool:
        """Whether it exists; also True when nobody can tell."""
        try:
            return self._store.is_domain_introduced(self._domid)
        except XenStoreError as error:
            return error.errno != errno.EACCES or self._is_there()
        except XenStoreTimeout:
            return True

    def _is_there(self) -> bool:
        try:
            there = read_of_peer(self._store, self._directory) is not None
        except (XenStoreError, XenStoreTimeout):
            return True
        self._seen = self._seen or there
        return there or not self._seen
