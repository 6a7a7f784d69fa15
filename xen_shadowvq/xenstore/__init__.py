# SPDX-License-Identifier: GPL-2.0-or-later
"""The XenStore client: pyxs, with what it takes to live with a daemon that fails, and one request that does not."""

from xen_shadowvq.xenstore.client import Transaction, XenStore
from xen_shadowvq.xenstore.watch_queue import WatchEvent

__all__ = ["Transaction", "WatchEvent", "XenStore"]
