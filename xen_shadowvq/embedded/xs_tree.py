# SPDX-License-Identifier: GPL-2.0-or-later
"""The node tree with generation counts, and transactions over it."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from xen_shadowvq.embedded.xs_wire import XsError

if TYPE_CHECKING:
    from xen_shadowvq.embedded.xs_domain import Domain, DomainTable, Perm
    from xen_shadowvq.embedded.xs_limits import Limits


@dataclass(frozen=True, slots=True)
class Node:
    """One node; immutable, so a transaction that has read it keeps it without a copy.

    `generation` is that of the last change; inside a transaction, of the node that it came from.
    """

    perms: tuple[Perm, ...]
    value: bytes = b""
    children: tuple[str, ...] = ()
    generation: int = 0

    def size_bytes(self) -> int:
        """Size as xenstored counts it for the quota: a record header, permissions, value and child names."""
        return 24 + 8 * len(self.perms) + len(self.value) + sum(len(child) + 1 for child in self.children)


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened at `path`. A watcher hears of it if it may read under any permissions in `witnesses`.

    `exact`: only watches on that very node fire (a descendant of a removed node); else those on its ancestors, too.
    """

    path: str
    exact: bool
    witnesses: tuple[tuple[Perm, ...], ...]


class View(Protocol):
    """The tree as one request sees it: the tree itself, or a transaction's."""

    def get(self, path: str) -> Node | None:
        """The node, or None."""

    def put(self, path: str, node: Node) -> None:
        """Make or replace a node; its parent's list of children is the caller's business."""

    def delete(self, path: str) -> None:
        """Remove a node that is there."""


def parent_of(path: str) -> str:
    """Path of the parent; that of `/` is `/`."""
    return path[: path.rindex("/")] or "/"


def child_of(path: str, name: str) -> str:
    """Path of a child."""
    return f"/{name}" if path == "/" else f"{path}/{name}"


class NodeTree:
    """The committed tree; a View."""

    def __init__(self, domains: DomainTable, root: Node) -> None:
        self.generation = 1
        self._domains = domains
        self._nodes: dict[str, Node] = {}
        self.put("/", root)

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, path: str) -> Node | None:
        """The node, or None."""
        node = self._nodes.get(path)
        return None if node is None else self.refreshed(node)

    def put(self, path: str, node: Node) -> None:
        """Make or replace a node, with a new generation."""
        self.bump()
        old = self._nodes.get(path)
        if old is not None:
            self._domains.count_node(old.perms[0].domid, -1)
        self._domains.count_node(node.perms[0].domid, 1)
        self._nodes[path] = replace(self.refreshed(node), generation=self.generation)

    def delete(self, path: str) -> None:
        """Remove a node that is there."""
        self.bump()
        self._domains.count_node(self._nodes.pop(path).perms[0].domid, -1)

    def bump(self) -> None:
        """Make all generations up to now older than what follows."""
        self.generation += 1

    def refreshed(self, node: Node) -> Node:
        """The node with permission entries for absent or younger domains marked ignored."""
        perms = self._domains.current(node.perms, node.generation)
        return node if perms is node.perms else replace(node, perms=perms)


@dataclass(slots=True)
class _Touched:
    """A node that a transaction has read or changed: as it was at the first access, and as it is."""

    before: Node | None
    now: Node | None
    modified: bool = False
    # None: no event at commit; else whether it is an exact one.
    exact: bool | None = None


@dataclass(slots=True)
class Transaction:
    """A View that keeps its changes until commit().

    As in xenstored, each node is frozen at its first access (not all at the start), and commit() refuses with EAGAIN if
    any accessed node has changed meanwhile; so whatever is committed looks as if it had happened at one instant.
    """

    tree: NodeTree
    who: Domain
    limits: Limits
    failed: bool = False
    created: bool = False
    _touched: dict[str, _Touched] = field(default_factory=dict)

    def get(self, path: str) -> Node | None:
        """The node as the transaction sees it, or None. Raises XsError ENOSPC when it has touched too many."""
        node = self._touch(path).now
        return None if node is None else self.tree.refreshed(node)

    def put(self, path: str, node: Node) -> None:
        """Make or replace a node within the transaction."""
        touched = self._touch(path)
        self.created |= touched.now is None
        self.tree.bump()
        touched.now = replace(self.tree.refreshed(node), generation=self.tree.generation)
        touched.modified = True

    def delete(self, path: str) -> None:
        """Remove a node within the transaction."""
        touched = self._touch(path)
        touched.now = None
        touched.modified = True

    def note_change(self, change: Change) -> None:
        """Remember that an event is due at commit; one per node, and a non-exact one wins."""
        touched = self._touched[change.path]
        touched.exact = change.exact if touched.exact is None else touched.exact and change.exact

    def commit(self, domains: DomainTable) -> list[Change]:
        """Put the changes into the tree; returns the events. XsError EAGAIN, ENOSPC or ENOMEM: nothing was changed."""
        if self.failed:
            raise XsError(errno.ENOMEM)
        for path, touched in self._touched.items():
            current = self.tree.get(path)
            before = touched.before
            if (current and current.generation) != (before and before.generation):
                raise XsError(errno.EAGAIN)
        self._check_owners(domains)
        for path, touched in self._touched.items():
            if not touched.modified:
                continue
            if touched.now is not None:
                self.tree.put(path, touched.now)
            elif touched.before is not None:
                self.tree.delete(path)
        return [self._change(path, t.before, t.exact) for path, t in self._touched.items() if t.exact is not None]

    def _touch(self, path: str) -> _Touched:
        touched = self._touched.get(path)
        if touched is None:
            if not self.who.privileged and len(self._touched) >= self.limits.transaction_nodes_max:
                self.failed = True
                raise XsError(errno.ENOSPC)
            node = self.tree.get(path)
            touched = self._touched[path] = _Touched(node, node)
        return touched

    def _check_owners(self, domains: DomainTable) -> None:
        """Every new owner is still there, and no owner's count passes the quota."""
        if any(t.modified and t.now and t.now.perms[0].domid not in domains for t in self._touched.values()):
            raise XsError(errno.ENOMEM)
        if self.who.privileged or not self.created:
            return
        deltas: dict[int, int] = {}
        for touched in self._touched.values():
            for node, step in ((touched.before, -1), (touched.now, 1)):
                if node is not None:
                    deltas[node.perms[0].domid] = deltas.get(node.perms[0].domid, 0) + step
        for domid, delta in deltas.items():
            owner = domains.get(domid)
            if delta and owner and not owner.privileged and owner.nodes + delta >= self.limits.nodes_max:
                raise XsError(errno.ENOSPC)

    def _change(self, path: str, before: Node | None, exact: bool) -> Change:
        witnesses = [] if before is None else [before.perms]
        node = self.tree.get(path)
        if node is not None:
            witnesses.append(node.perms)
            parent = self.tree.get(parent_of(path))
            if parent is not None:
                witnesses.append(parent.perms)
        return Change(path, exact, tuple(witnesses))
