# SPDX-License-Identifier: GPL-2.0-or-later
"""XenStore lets a domain have so many nodes and watches, and no more: what it means where it says no."""

from __future__ import annotations

import errno

from xen_shadowvq.errors import ShadowVQError, XenStoreError

_WHAT = {
    errno.ENOSPC: (
        "nodes",
        "detach a disk of that domain, or raise the quota (xenstored's --entry-nb, oxenstored's quota-maxentity)",
    ),
    errno.E2BIG: (
        "watches",
        "it needs one for each domain that it serves (xenstored's --watch-nb, oxenstored's quota-maxwatch)",
    ),
}


def reason_of(error: ShadowVQError, path: str) -> str:
    """
    Why something failed, as one sentence for people; where XenStore has refused more to the domain in whose directory
    `path` lies, that quota and what to do.
    """
    if not isinstance(error, XenStoreError) or error.errno not in _WHAT:
        return str(error)
    what, remedy = _WHAT[error.errno]
    domid = path.removeprefix("/local/domain/").partition("/")[0]
    return f"XenStore allows domain {domid} no more {what} ({error}): {remedy}"
