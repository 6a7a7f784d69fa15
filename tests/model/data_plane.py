# SPDX-License-Identifier: GPL-2.0-or-later
"""The mediator's data plane: a request is taken, its pages are granted, and ended again before the driver sees it used.

What is one step here is one access in the C: `c_helpers/src/engine/grant_entry.h` is checked by itself, with CBMC.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.model.explore import Step
from tests.model.world import BACKEND, MARK, Faults, Scope, World, changed
from tests.model.xen import FREE, Word, granted

UNPLACED = {"", "cleared", "seen free"}
TRIED = {"", "held", "lost"}  # what has become of a page when it was tried to end it


class DataPlane:
    """Its steps. They go on, whatever the control plane writes to XenStore, until it stops them."""

    def __init__(self, scope: Scope, faults: Faults) -> None:
        self.scope = scope
        self.faults = faults

    def steps(self) -> Iterator[Step[World]]:
        """All steps."""
        for r in range(self.scope.requests):
            yield Step(f"the mediator takes request {r}", partial(self.take, r=r), honest=True)
            yield Step(f"the mediator forwards request {r}", partial(self.forward, r=r), honest=True)
            yield Step(f"the mediator sees the answer to {r}", partial(self.see_answer, r=r), honest=True)
            yield Step(f"the mediator puts {r} into the used ring", partial(self.put_used, r=r), honest=True)
        for p in range(self.scope.requests * self.scope.pages_each):
            yield Step(f"the mediator clears page {p}", partial(self.clear, p=p), honest=True)
            yield Step(f"the mediator grants page {p}", partial(self.grant, p=p), honest=True)
            yield Step(f"the mediator ends page {p}", partial(self.end_page, p=p), honest=True)

    # ---- there -----------------------------------------------------------------------------------------------------

    def take(self, w: World, r: int) -> bool:
        """Not once a page is held: then the device is broken. Nor while its queue is being reset."""
        waits = w.at == "serving" and w.kinds[r] and not w.used[r] and not w.requests[r]
        if not waits or "held" in w.requests or w.reset:
            return False
        w.requests = changed(w.requests, r, "placing")
        return True

    def clear(self, w: World, p: int) -> bool:
        r = self.scope.request_of(p)
        if w.requests[r] != "placing" or w.pages[p] or any(not w.pages[q] for q in self.scope.pages_of(r) if q < p):
            return False
        if w.kinds[r] == "read" and not self.faults.not_cleared:
            w.old = changed(w.old, p, False)
        w.pages = changed(w.pages, p, "cleared")
        return True

    def grant(self, w: World, p: int) -> bool:
        """Only an entry that is 0 is taken. Else the page is copied."""
        run = self.scope.pages_of(self.scope.request_of(p))
        if w.pages[p] not in {"cleared", "seen free"} or any(w.pages[q] in UNPLACED for q in run if q < p):
            return False
        if w.pages[p] == "cleared" and self.faults.take_in_two_steps and w.entries[p].word == FREE:
            w.pages = changed(w.pages, p, "seen free")
        elif w.entries[p].word == FREE or w.pages[p] == "seen free" or self.faults.take_without_looking:
            w.entries = changed(w.entries, p, w.entries[p].write(self.granted_form(w, p)))
            w.pages = changed(w.pages, p, "granted")
        else:
            w.pages = changed(w.pages, p, "copied")
        return True

    def granted_form(self, w: World, p: int) -> Word:
        """What stands in the entry of a page that was granted."""
        return granted(MARK, BACKEND, p, writable=w.kinds[self.scope.request_of(p)] == "read")

    def forward(self, w: World, r: int) -> bool:
        if w.requests[r] != "placing" or any(w.pages[p] in UNPLACED for p in self.scope.pages_of(r)):
            return False
        w.requests = changed(w.requests, r, "placed")
        return True

    # ---- and back --------------------------------------------------------------------------------------------------

    def see_answer(self, w: World, r: int) -> bool:
        if w.at not in {"serving", "draining"} or w.requests[r] != "placed" or not w.answered[r]:
            return False
        w.requests = changed(w.requests, r, "ending")
        if self.faults.used_before_end:
            w.used = changed(w.used, r, True)
        return True

    def end_page(self, w: World, p: int) -> bool:
        """Ends it, or tries again: of an answered request, and of every one when the device is stopped."""
        r = self.scope.request_of(p)
        ends = w.requests[r] == "ending" or (w.at == "stopping" and w.requests[r] == "placed")
        again = w.at in {"stopping", "holding"} and w.pages[p] == "held"
        if not again and not (ends and w.pages[p] not in TRIED):
            return False
        if w.pages[p] == "copied":
            after: str | None = ""
        elif self.is_spared(w, p):
            after = "held"
        elif self.faults.end_in_two_steps and w.pages[p] != "seen unmapped":
            after = None if w.entries[p].word.mapped else "seen unmapped"
        elif not self.is_mine(w, p):
            # The guest's kernel wrote there. What it did not reserve it may have taken in all innocence, and nobody can
            # see any more whether the page is mapped: so it counts as held.
            after = "" if self.faults.overwritten_is_ended else "lost"
        else:
            after = "" if self.end_entry(w, p, blindly=w.pages[p] == "seen unmapped") else "held"
        if after is None:
            return False
        w.pages = changed(w.pages, p, after)
        return True

    def is_mine(self, w: World, p: int) -> bool:
        """Is what stands in the entry what was written there?"""
        mine = self.granted_form(w, p)
        return w.entries[p].word._replace(reading=False, writing=False) in {mine, self.held_form(mine)}

    def end_entry(self, w: World, p: int, *, blindly: bool = False) -> bool:
        """One compare-and-swap. True: it is free now; else it is held."""
        entry = w.entries[p]
        free = not entry.word.mapped or blindly or self.faults.end_without_looking
        w.entries = changed(w.entries, p, entry.write(FREE if free else self.held_form(entry.word)))
        return free

    def held_form(self, word: Word) -> Word:
        """What stands in an entry that was ended while it was mapped."""
        return word._replace(
            typed=word.typed and self.faults.type_stays, readonly=word.readonly or not self.faults.no_readonly
        )

    def is_spared(self, w: World, p: int) -> bool:
        """The mistake of ending a run from both ends: what lies between two held pages stays as it was."""
        if not self.faults.middle_kept or w.pages[p] != "granted":
            return False
        mapped = [q for q in self.scope.pages_of(self.scope.request_of(p)) if w.entries[q].word.mapped]
        return any(q < p for q in mapped) and any(q > p for q in mapped)

    def is_held(self, w: World, r: int) -> bool:
        """Is one of the request's pages one that could not be ended?"""
        return any(w.pages[p] in {"held", "lost"} for p in self.scope.pages_of(r))

    def put_used(self, w: World, r: int) -> bool:
        if w.requests[r] != "ending" or any(w.pages[p] not in TRIED for p in self.scope.pages_of(r)):
            return False
        held = self.is_held(w, r)
        w.requests = changed(w.requests, r, "held" if held else "")
        if not held:
            w.used = changed(w.used, r, True)
        return True
