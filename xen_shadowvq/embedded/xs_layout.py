# SPDX-License-Identifier: GPL-2.0-or-later
"""The nodes that a toolstack makes for a new domain, with the permissions that libxl 4.17 gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from xen_shadowvq.embedded.xs_domain import Access, Perm

if TYPE_CHECKING:
    from xen_shadowvq.embedded.xs_domain import Domain
    from xen_shadowvq.embedded.xs_store import Store
    from xen_shadowvq.embedded.xs_tree import Change

# Directories that the domain may read; what is in `device` is made by the toolstack, device by device.
READABLE: Final = ("cpu", "memory", "device", "control")
# Nodes that the domain owns.
OWNED: Final = (
    "device/suspend/event-channel",
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)


def make_domain_nodes(store: Store, dom0: Domain, domain: Domain, name: str) -> list[Change]:
    """Make a fresh /local/domain/<domid>; returns the changes for the watches."""
    tree, changes = store.tree, []
    owned = (Perm(Access.NONE, domain.domid),)
    readable = (Perm(Access.NONE, 0), Perm(Access.READ, domain.domid))
    if tree.get(domain.path) is not None:
        changes += store.remove(tree, dom0, domain.path)
    for path, perms in (
        (domain.path, readable),
        *((f"{domain.path}/{node}", readable) for node in READABLE),
        *((f"{domain.path}/{node}", owned) for node in OWNED),
    ):
        changes += store.mkdir(tree, dom0, path)
        node = tree.get(path)
        if node is not None:
            tree.put(path, replace(node, perms=perms, generation=tree.generation))
    changes += store.write(tree, dom0, f"{domain.path}/name", name.encode())
    changes += store.write(tree, dom0, f"{domain.path}/domid", str(domain.domid).encode())
    return changes
