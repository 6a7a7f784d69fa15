# SPDX-License-Identifier: GPL-2.0-or-later
"""Another device of the guest, with a mediator and a backend of its own: the other half of a mirror.

The driver gives it the same page to read, and it uses the same part of the guest's grant table. In a direct window both
devices want the same entry, in a dynamic one each takes one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.explore import Step
from tests.model.mediator import Mediator
from tests.model.world import MARK, Faults, Scope, World, changed
from tests.model.xen import FREE, granted

OTHER_MARK = "B"
OTHER_BACKEND = "other backend"


class Neighbour:
    """Its steps, told shorter than the first device's."""

    def __init__(self, scope: Scope, faults: Faults, mediator: Mediator) -> None:
        self.scope = scope
        self.mark = MARK if faults.one_mark else OTHER_MARK
        self.held_form = mediator.data.held_form
        self.entry = scope.requests * scope.pages_each if scope.neighbour == "its own entry" else 0

    def steps(self) -> Iterator[Step[World]]:
        """All steps."""
        if not self.scope.neighbour:
            return
        yield Step("the driver gives page 0 to the other device as well", self.give, honest=False)
        yield Step("the other mediator grants it, or copies it", self.grant, honest=True)
        yield Step("the other backend maps it", self.map, honest=False)
        yield Step("the other backend unmaps it", self.unmap, honest=True)
        yield Step("the other mediator ends it", self.end, honest=True)
        yield Step("the other mediator dies", self.die, honest=False)
        yield Step("the next other mediator sweeps", self.sweep, honest=True)

    def give(self, w: World) -> bool:
        if w.neighbour:
            return False
        w.neighbour = "given"
        return True

    def grant(self, w: World) -> bool:
        if w.neighbour != "given":
            return False
        entry = w.entries[self.entry]
        w.neighbour = "copied"
        if entry.word == FREE:
            word = granted(self.mark, OTHER_BACKEND, 0, writable=False)
            w.entries, w.neighbour = changed(w.entries, self.entry, entry.write(word)), "granted"
        return True

    def map(self, w: World) -> bool:
        entry = w.entries[self.entry]
        if entry.mappings or not entry.may_map(OTHER_BACKEND, writable=False):
            return False
        w.entries = changed(w.entries, self.entry, entry.map(OTHER_BACKEND, writable=False))
        return True

    def unmap(self, w: World) -> bool:
        entry = w.entries[self.entry]
        if not entry.mappings or entry.grantee != OTHER_BACKEND:
            return False
        w.entries = changed(w.entries, self.entry, entry.unmap(writable=False))
        return True

    def end(self, w: World) -> bool:
        """Its driver sees it used at once, or keeps it in flight."""
        if w.neighbour == "copied":
            w.neighbour = ""
            return True
        if w.neighbour not in {"granted", "held"}:
            return False
        w.neighbour = "" if self.end_entry(w) else "held"
        return True

    def end_entry(self, w: World) -> bool:
        """As the first device does it."""
        entry = w.entries[self.entry]
        word = self.held_form(entry.word) if entry.word.mapped else FREE
        w.entries = changed(w.entries, self.entry, entry.write(word))
        return word == FREE

    def die(self, w: World) -> bool:
        if w.neighbour not in {"granted", "held"}:
            return False
        w.neighbour = "lost"
        return True

    def sweep(self, w: World) -> bool:
        """And then says Closed, if nothing is held."""
        if w.neighbour != "lost":
            return False
        if w.entries[self.entry].word.mark != self.mark or self.end_entry(w):
            w.neighbour = ""
        return True
