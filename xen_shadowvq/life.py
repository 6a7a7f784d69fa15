# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether another domain is still there, by the word of those that it cannot make say anything: xenstored, and dom0."""

from __future__ import annotations

import errno

from xen_shadowvq.errors import XenStoreError, XenStoreTimeout
from xen_shadowvq.side import read_of_peer
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes


class Life:
    """
    Of one domain. xenstored tells dom0 alone; elsewhere it is there as long as a directory of its own is, which goes
    when the domain is destroyed. None: dom0's records of its devices, which the mediator may read.
    """

    def __init__(self, store: XenStore, domid: int, directory: str | None = None) -> None:
        self._store = store
        self._domid = domid
        self._directory = directory or nodes.virtio_record_root(frontend=domid)
        self._seen = False  # that directory: one that never was there says nothing
        self.goes_on()

    def goes_on(self) -> bool:
        """Whether it is there; also when nobody can tell."""
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
