# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole model: all steps, and the rule of docs/protocol.md, "When the frontend has its buffers back"."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.backend import Backend
from tests.model.dom0 import Dom0
from tests.model.explore import Explored, Rule, Step, WayOut, explore
from tests.model.guest import Guest
from tests.model.mediator import Mediator
from tests.model.neighbour import OTHER_BACKEND, Neighbour
from tests.model.world import BACKEND, MARK, Faults, Scope, World
from tests.model.xen import Access

THE_RULE = "the rule"
OLD_BYTES = "what the guest kept there before"
NOT_ENDED = "ended is ended"
OTHERS = "whose entries"
NEVER_BACK = "the driver gets everything back"
NEVER_AGAIN = "the device serves again"


class Life:
    """One page's life, in the bounds of `scope`, with the `faults` that are put in."""

    def __init__(self, scope: Scope, faults: Faults | None = None) -> None:
        self.scope = scope
        self.faults = faults or Faults()
        self.mediator = Mediator(self.scope, self.faults)
        self.neighbour = Neighbour(self.scope, self.faults, self.mediator)

    def explore(self) -> Explored:
        """Looks at every state."""
        rules = [
            Rule(THE_RULE, self.reached_without_leave),
            Rule(OLD_BYTES, self.reads_old_bytes),
            Rule(NOT_ENDED, self.gains_after_end),
            Rule(OTHERS, self.touches_others),
        ]
        ways_out: list[WayOut[World]] = [
            WayOut(NEVER_BACK, lambda w: not any(w.kinds) and not w.neighbour),
            WayOut(NEVER_AGAIN, lambda w: not w.recorded or (w.at == "serving" and w.phase == "connected")),
        ]
        return explore(World.initial(self.scope), World.fields(), list(self.steps()), rules, ways_out)

    def steps(self) -> Iterator[Step[World]]:
        """The steps of everybody."""
        yield from Guest(self.scope, self.faults).steps()
        yield from self.mediator.steps()
        yield from Backend(self.scope).steps()
        yield from Dom0(self.scope, self.faults, self.mediator).steps()
        yield from self.neighbour.steps()

    # ---- the rules -------------------------------------------------------------------------------------------------

    def reached(self, w: World, who: str, lives: bool) -> Iterator[tuple[int, Access]]:
        """The pages that a backend can get at, be it by mapping them now."""
        for entry in w.entries:
            access = entry.could_have(who) if lives else entry.has(who)
            if access and entry.reached_frame() >= 0:
                yield entry.reached_frame(), access

    def reached_without_leave(self, w: World) -> str | None:
        """A backend reaches a page that no request of its device describes which the driver still has given away."""
        for page, access in self.reached(w, BACKEND, w.backend):
            kind = w.kinds[self.scope.request_of(page)]
            if not kind:
                return f"the backend can {access.name.lower()} page {page}, which the driver has back"
            if access is Access.WRITE and kind != "read":
                return f"the backend can write page {page}, which its request lets it read"
        if not w.neighbour and any(self.reached(w, OTHER_BACKEND, True)):
            return "the other device's backend can reach the page, which the driver has back"
        return None

    def reads_old_bytes(self, w: World) -> str | None:
        """It reaches bytes in a page that are no part of the request."""
        for page, _ in self.reached(w, BACKEND, w.backend):
            if w.old[page]:
                return f"the backend can read what was in page {page} before"
        return None

    def gains_after_end(self, w: World) -> str | None:
        """A page that was ended while it was mapped can be mapped anew, or in more ways, by who has it mapped."""
        if w.at != "holding":
            return None
        for page, entry in enumerate(w.entries):
            if entry.word.mark == MARK and entry.could_have(BACKEND) > entry.has(BACKEND):
                more = entry.could_have(BACKEND).name.lower()
                return f"page {page} was ended, and the backend can still come to {more} it"
        return None

    def touches_others(self, w: World) -> str | None:
        """An entry that somebody else made, the guest's kernel or another device's mediator, is changed."""
        if w.kernel_granted and (w.entries[0].word.mark or not w.entries[0].word.typed):
            return "a grant that the guest made for itself is gone"
        if w.neighbour == "granted":
            word = w.entries[self.neighbour.entry].word
            if not word.typed or word.grantee != OTHER_BACKEND:
                return "the other device's grant is gone, though its request lives"
        return None
