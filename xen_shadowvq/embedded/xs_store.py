# SPDX-License-Identifier: GPL-2.0-or-later
"""What the node operations do to a view of the tree: lookup with permissions, write, mkdir, rm, set_perms."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from xen_shadowvq.embedded.xs_domain import Access, DomainTable, Perm
from xen_shadowvq.embedded.xs_tree import Change, Node, NodeTree, Transaction, View, child_of, parent_of
from xen_shadowvq.embedded.xs_wire import XsError

if TYPE_CHECKING:
    from xen_shadowvq.embedded.xs_domain import Domain
    from xen_shadowvq.embedded.xs_limits import Limits


_PATH: Final = re.compile(r"/|(?:/[A-Za-z0-9_@-]+)+")
_DOMAIN_PREFIX: Final = re.compile(r"/local/domain/[0-9]{1,5}/")


class Store:
    """The tree, the domains, and the operations on nodes. Every method raises XsError for the client's fault."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.domains = DomainTable()
        self.tree = NodeTree(self.domains, Node((Perm(Access.NONE, 0),)))

    def valid_path(self, path: str) -> bool:
        """Whether `path` can name a node."""
        prefix = _DOMAIN_PREFIX.match(path)
        length_max = self.limits.path_bytes_max + (prefix.end() if prefix else 0)
        return len(path) <= length_max and _PATH.fullmatch(path) is not None

    def node(self, view: View, who: Domain, path: str, need: Access) -> Node:
        """The node, if `who` has all of `need`. EINVAL, EACCES, or ENOENT only to who may know that it is absent."""
        if not self.valid_path(path):
            raise XsError(errno.EINVAL)
        node = view.get(path)
        if node is None:
            nearest = self._nearest_ancestor(view, path)[1]
            raise XsError(errno.ENOENT if who.access_to(nearest.perms) & need else errno.EACCES)
        if who.access_to(node.perms) & need != need:
            raise XsError(errno.EACCES)
        return node

    def write(self, view: View, who: Domain, path: str, value: bytes) -> list[Change]:
        """Set the value, making the node and its parents as needed."""
        node = self._node_or_none(view, who, path)
        if node is None:
            return self._create(view, who, path, value)
        node = replace(node, value=value)
        self._check_size(view, who, node)
        view.put(path, node)
        return [self._changed(view, path, node)]

    def mkdir(self, view: View, who: Domain, path: str) -> list[Change]:
        """Make the node and its parents as needed; one that is there stays as it is."""
        if self._node_or_none(view, who, path) is not None:
            return []
        return self._create(view, who, path, b"")

    def remove(self, view: View, who: Domain, path: str) -> list[Change]:
        """Remove a node with all below it; one that is not there is fine if its parent is."""
        if self._node_or_none(view, who, path) is None:
            if view.get(parent_of(path)) is None:
                raise XsError(errno.ENOENT)
            return []
        if path == "/":
            raise XsError(errno.EINVAL)
        return self._remove_tree(view, path)

    def set_perms(self, view: View, who: Domain, path: str, perms: tuple[Perm, ...]) -> list[Change]:
        """Replace the permissions; only for the owner, who may not give the node away unless privileged."""
        node = self.node(view, who, path, Access.WRITE | Access.OWNER)
        if not who.privileged and perms[0].domid != node.perms[0].domid:
            raise XsError(errno.EPERM)
        changed = replace(node, perms=perms, generation=self.tree.generation)
        self._check_size(view, who, changed)
        view.put(path, changed)
        change = self._changed(view, path, changed)
        return [replace(change, witnesses=(node.perms, *change.witnesses))]

    def checked_perms(self, who: Domain, texts: list[bytes]) -> tuple[Perm, ...]:
        """Permissions from their wire form; entries of domains that are not there are kept but ignored."""
        if not texts:
            raise XsError(errno.EINVAL)
        if not who.privileged and len(texts) > self.limits.perms_max:
            raise XsError(errno.ENOSPC)
        perms = tuple(Perm.parse(text) for text in texts)
        perms = tuple(p if p.domid in self.domains else replace(p, ignored=True) for p in perms)
        if perms[0].ignored:
            raise XsError(errno.ENOENT)
        return perms

    def remove_owned_by(self, domid: int) -> list[Change]:
        """Remove every node of a domain that is gone, with all below it."""
        changes: list[Change] = []
        pending = ["/"]
        while pending:
            path = pending.pop()
            node = self.tree.get(path)
            if node is None:
                continue
            if path != "/" and node.perms[0].domid == domid:
                changes += self._remove_tree(self.tree, path)
            else:
                pending += [child_of(path, child) for child in node.children]
        return changes

    def _node_or_none(self, view: View, who: Domain, path: str) -> Node | None:
        try:
            return self.node(view, who, path, Access.WRITE)
        except XsError as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    def _nearest_ancestor(self, view: View, path: str) -> tuple[str, Node]:
        while True:
            path = parent_of(path)
            node = view.get(path)
            if node is not None:
                return path, node

    def _create(self, view: View, who: Domain, path: str, value: bytes) -> list[Change]:
        """Make a node and its missing ancestors. Permissions are inherited; unprivileged domains own what they make."""
        base_path, base = self._nearest_ancestor(view, path)
        missing = [path]
        while parent_of(missing[-1]) != base_path:
            missing.append(parent_of(missing[-1]))
        self._check_node_quota(view, who, len(missing))
        first = base.perms[0] if who.privileged else replace(base.perms[0], domid=who.domid)
        perms = (first, *base.perms[1:])
        made = {base_path: base}
        for name in reversed(missing):
            up = parent_of(name)
            made[up] = replace(made[up], children=(*made[up].children, name.rpartition("/")[2]))
            made[name] = Node(perms, generation=base.generation)
        made[path] = replace(made[path], value=value)
        for node in made.values():
            self._check_size(view, who, node)
        for name, node in made.items():
            view.put(name, node)
        return [self._changed(view, path, made[path])]

    def _remove_tree(self, view: View, root: str) -> list[Change]:
        """Children before parents, as xenstored; an event for each, only the root's goes to watches above."""
        changes: list[Change] = []
        pending = [(root, False)]
        while pending:
            path, children_done = pending.pop()
            node = view.get(path)
            if node is None:
                continue
            if not children_done:
                pending.append((path, True))
                pending += [(child_of(path, child), False) for child in reversed(node.children)]
                continue
            changes.append(replace(self._changed(view, path, node), exact=path != root))
            view.delete(path)
        up = parent_of(root)
        parent = view.get(up)
        if parent is not None:
            name = root.rpartition("/")[2]
            view.put(up, replace(parent, children=tuple(child for child in parent.children if child != name)))
        return changes

    def _changed(self, view: View, path: str, node: Node) -> Change:
        if isinstance(view, Transaction):
            return Change(path, False, ())  # who may hear of it is found at commit; asking now would widen conflicts
        parent = view.get(parent_of(path))
        return Change(path, False, (node.perms,) if parent is None else (node.perms, parent.perms))

    def _check_size(self, view: View, who: Domain, node: Node) -> None:
        if not who.privileged and node.size_bytes() >= self.limits.node_bytes_max:
            if isinstance(view, Transaction):
                view.failed = True
            raise XsError(errno.ENOSPC)

    def _check_node_quota(self, view: View, who: Domain, more: int) -> None:
        if who.privileged:
            return
        # In a transaction the count changes at commit, which checks again.
        after = who.nodes + (1 if isinstance(view, Transaction) else more)
        if after > self.limits.nodes_max:
            raise XsError(errno.ENOSPC)
