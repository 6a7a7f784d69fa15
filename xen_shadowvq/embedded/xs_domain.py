# SPDX-License-Identifier: GPL-2.0-or-later
"""The domains that the store knows, and what each may do to a node with given permissions."""

from __future__ import annotations

import enum
import errno
import re
from dataclasses import dataclass, replace
from typing import Final

from xen_shadowvq.embedded.xs_wire import XsError


class Access(enum.IntFlag):
    """What a domain may do to a node."""

    NONE = 0
    READ = 1
    WRITE = 2
    OWNER = 4


_FULL: Final = Access.READ | Access.WRITE | Access.OWNER
_LETTERS: Final = {"n": Access.NONE, "r": Access.READ, "w": Access.WRITE, "b": Access.READ | Access.WRITE}
_LETTER_OF: Final = {access: letter for letter, access in _LETTERS.items()}
_PERM: Final = re.compile(rb"([nrwb])([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Perm:
    """One entry of a node's permissions. The first entry names the owner and what everyone else may do.

    `ignored` marks an entry for a domain that was not there, so that a later domain of the same id does not inherit it.
    """

    access: Access
    domid: int
    ignored: bool = False

    @classmethod
    def parse(cls, text: bytes) -> Perm:
        """`r3` and the like. Raises XsError EINVAL."""
        match = _PERM.fullmatch(text)
        if match is None:
            raise XsError(errno.EINVAL)
        return cls(_LETTERS[match[1].decode()], int(match[2]))

    def format(self) -> bytes:
        """The wire form, without NUL."""
        return f"{_LETTER_OF[self.access]}{self.domid}".encode()


@dataclass(slots=True, eq=False)
class Domain:
    """A domain that was introduced, with what it uses of its quotas."""

    domid: int
    privileged: bool
    # Value of the store's generation when the domain came: permission entries older than that are for a predecessor.
    generation: int
    target: int | None = None
    nodes: int = 0
    watches: int = 0
    transactions: int = 0
    connections: int = 0

    @property
    def path(self) -> str:
        """The directory below which the domain's relative paths lie."""
        return f"/local/domain/{self.domid}"

    def access_to(self, perms: tuple[Perm, ...]) -> Access:
        """What this domain may do to a node that has these permissions."""
        mine = (self.domid, self.target)
        if self.privileged or perms[0].domid in mine:
            return _FULL
        for perm in perms[1:]:
            if not perm.ignored and perm.domid in mine:
                return perm.access
        return perms[0].access


class DomainTable:
    """All introduced domains by id; the owner counts of the node quota are kept here."""

    def __init__(self) -> None:
        self._domains: dict[int, Domain] = {}

    def __contains__(self, domid: int) -> bool:
        return domid in self._domains

    def get(self, domid: int) -> Domain | None:
        """The domain, or None when no such domain was introduced."""
        return self._domains.get(domid)

    def add(self, domain: Domain) -> None:
        """Take in a domain whose id is free."""
        self._domains[domain.domid] = domain

    def remove(self, domid: int) -> None:
        """Forget a domain; whoever has it as target has none from now on (ids are used again)."""
        del self._domains[domid]
        for domain in self._domains.values():
            if domain.target == domid:
                domain.target = None

    def count_node(self, owner: int, change: int) -> None:
        """`owner` has `change` more nodes; owners that are gone are not counted."""
        domain = self._domains.get(owner)
        if domain is not None:
            domain.nodes += change

    def current(self, perms: tuple[Perm, ...], generation: int) -> tuple[Perm, ...]:
        """The permissions of a node of that generation, with the entries of absent or younger domains marked ignored.

        Without this a new domain would inherit what an older one of its id was given (XSA-322).
        """
        if all(perm.ignored or self._has_since(perm.domid, generation) for perm in perms[1:]):
            return perms
        rest = (p if self._has_since(p.domid, generation) else replace(p, ignored=True) for p in perms[1:])
        return (perms[0], *rest)

    def _has_since(self, domid: int, generation: int) -> bool:
        domain = self._domains.get(domid)
        return domain is not None and domain.generation <= generation
