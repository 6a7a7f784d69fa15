# SPDX-License-Identifier: GPL-2.0-or-later
"""The backend's domain: it maps what it can, when it likes, keeps it, lets go of it, answers, and may die."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.model.explore import Step
from tests.model.world import BACKEND, Scope, World, changed
from tests.model.xen import MAPPINGS_MAX


class Backend:
    """Its steps. Its being honest is only that it may also do the right thing: answer, and unmap."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        can_write, can_read = "read" in scope.kinds, scope.read_only_mappings
        self.ways = [writable for writable, can in ((False, can_read), (True, can_write)) if can]

    def steps(self) -> Iterator[Step[World]]:
        """All steps."""
        for p in range(self.scope.requests * self.scope.pages_each):
            for writable in self.ways:
                how = "to write it" if writable else "to read it"
                yield Step(
                    f"the backend maps the entry of page {p} {how}",
                    partial(self.map, p=p, writable=writable),
                    honest=False,
                )
                yield Step(
                    f"the backend unmaps page {p}, mapped {how}",
                    partial(self.unmap, p=p, writable=writable),
                    honest=True,
                )
        for r in range(self.scope.requests):
            yield Step(f"the backend answers {r}", partial(self.answer, r=r), honest=True)
        only_way_out = self.scope.kernel == "any entry"  # of a page that nobody can tell anything about any more
        yield Step("the backend's domain ends", self.end, honest=only_way_out)

    def map(self, w: World, p: int, writable: bool) -> bool:
        entry = w.entries[p]
        enough = entry.mappings == MAPPINGS_MAX or (not self.scope.read_only_mappings and entry.mappings)
        if not w.backend or enough or not entry.may_map(BACKEND, writable=writable):
            return False
        w.entries = changed(w.entries, p, entry.map(BACKEND, writable=writable))
        return True

    def unmap(self, w: World, p: int, writable: bool) -> bool:
        entry = w.entries[p]
        if entry.grantee != BACKEND or not (entry.writable if writable else entry.read_only):
            return False
        w.entries = changed(w.entries, p, entry.unmap(writable=writable))
        return True

    def answer(self, w: World, r: int) -> bool:
        if not w.backend or w.requests[r] != "placed" or w.answered[r]:
            return False
        w.answered = changed(w.answered, r, True)
        return True

    def end(self, w: World) -> bool:
        """The domain ends, and all its mappings with it."""
        if not w.backend:
            return False
        w.backend = False
        w.entries = tuple(entry.without(BACKEND) for entry in w.entries)
        return True
