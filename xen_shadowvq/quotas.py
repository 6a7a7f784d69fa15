# SPDX-License-Identifier: GPL-2.0-or-later
"""
XenStore limits how many nodes and watches a domain may have, and how large a node may be: what to tell the operator
when a limit is reached.
"""

from __future__ import annotations

import errno

from xen_shadowvq.errors import ShadowVQError, XenStoreError
from xen_shadowvq.output import NODE_TEXT_BYTES

_WHAT = {
    errno.ENOSPC: (
        "nodes",
        "detach a disk of that domain, or raise the quota (xenstored's --entry-nb, oxenstored's quota-maxentity)",
    ),
    errno.E2BIG: (
        "watches",
        "raise the quota (xenstored's --watch-nb, oxenstored's quota-maxwatch): it needs one for each domain it serves",
    ),
}
_OR_NONE_SO_LARGE = (
    ", or none of {} bytes",
    ", or the limit for one node (xenstored's --entry-size, oxenstored's quota-maxsize)",
)


def reason_of(error: ShadowVQError, path: str) -> str:
    """
    Why something failed, as one sentence for people. If a quota of the domain in whose directory `path` is was reached:
    which one, and what to do.
    """
    if not isinstance(error, XenStoreError) or error.errno not in _WHAT:
        return str(error)
    what, remedy = _WHAT[error.errno]
    if error.errno == errno.ENOSPC and error.value_bytes > NODE_TEXT_BYTES:  # its answer is the same for either limit
        what += _OR_NONE_SO_LARGE[0].format(error.value_bytes)
        remedy += _OR_NONE_SO_LARGE[1]
    domid = path.removeprefix("/local/domain/").partition("/")[0]
    return f"XenStore allows domain {domid} no more {what} ({error}): {remedy}"
