# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest: its module, which gives pages away and decides when it has them back, and its kernel."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.model.explore import Step
from tests.model.world import NOWHERE, Faults, Scope, World, changed
from tests.model.xen import FREE, granted


class Guest:
    """Its steps."""

    def __init__(self, scope: Scope, faults: Faults) -> None:
        self.scope = scope
        self.faults = faults

    def steps(self) -> Iterator[Step[World]]:
        """All steps."""
        for r in range(self.scope.requests):
            for kind in self.scope.kinds:
                words = f"the driver gives away request {r}, which the device {'writes' if kind == 'read' else 'reads'}"
                yield Step(words, partial(self.give, r=r, kind=kind), honest=False)
            yield Step(f"the driver sees {r} used", partial(self.see_used, r=r), honest=True)
        yield Step("the module makes its rings: Initialised", self.set_up, honest=True)
        yield Step("the module connects: Connected", self.connect, honest=True)
        yield Step("the module closes: Closing", self.close, honest=True)
        yield Step("the module sees Closed", self.see_closed, honest=True)
        yield Step("the module sees Closing", self.see_closing, honest=True)
        yield Step("the module reads held-pages", self.read_held_pages, honest=True)
        yield Step("the module reads which heads are held", self.read_heads, honest=True)
        if self.scope.toolstack:
            yield Step("the module sees that dom0 has swept", self.see_swept, honest=True)
        yield Step("the module opens anew: Initialising", self.reopen, honest=True)
        if self.scope.ring_reset:
            yield Step("the driver resets its queue", self.ask_reset, honest=False)
            yield Step("the driver sees its queue reset", self.see_reset, honest=True)
        if self.faults.module_times_out:
            yield Step("the module has waited for 30 s", self.time_out, honest=False)
        if self.faults.module_trusts_gone:
            yield Step("the module sees that the mediator is gone", self.see_gone, honest=False)
        if self.scope.kernel:
            yield Step("the guest's kernel grants a page of its own", self.kernel_grants, honest=False)
            yield Step("the guest's kernel ends that grant", self.kernel_ends, honest=False)

    # ---- requests --------------------------------------------------------------------------------------------------

    def give(self, w: World, r: int, kind: str) -> bool:
        """What the device is to write holds old bytes of the guest's; what it is to read is the request's own."""
        if w.phase != "connected" or w.kinds[r] or w.used[r] or w.reset:
            return False
        w.kinds = changed(w.kinds, r, kind)
        for p in self.scope.pages_of(r):
            w.old = changed(w.old, p, kind == "read")
        return True

    def take_back(self, w: World, heads: tuple[bool, ...] | None = None) -> None:
        """The driver has these requests' pages back (None: all), and puts its secrets there."""
        for r in range(self.scope.requests):
            if heads is None or heads[r]:
                w.kinds = changed(w.kinds, r, "")
                w.used = changed(w.used, r, False)
                for p in self.scope.pages_of(r):
                    w.old = changed(w.old, p, False)

    def see_used(self, w: World, r: int) -> bool:
        if not w.used[r]:
            return False
        self.take_back(w, tuple(head == r for head in range(self.scope.requests)))
        return True

    def ask_reset(self, w: World) -> bool:
        if w.phase != "connected" or w.reset:
            return False
        w.reset = "asked"
        return True

    def see_reset(self, w: World) -> bool:
        if w.reset != "asked" or not w.reset_done or w.phase != "connected":
            return False
        self.take_back(w)
        w.reset, w.reset_done = "", False  # counts: the next reset has the next one
        return True

    # ---- the XenBus state, and what it says about buffers ------------------------------------------------------------

    def enter(self, w: World, phase: str) -> None:
        """Goes on, and says so in its directory, if it has one."""
        w.phase = phase
        if not w.disowned:
            w.front = phase

    def set_up(self, w: World) -> bool:
        if w.phase != "initialising" or w.state != "init-wait" or w.disowned:
            return False
        self.enter(w, "initialised")
        w.swept = False  # it notes how often dom0 has swept
        return True

    def connect(self, w: World) -> bool:
        if w.phase != "initialised" or w.state != "connected":
            return False
        self.enter(w, "connected")
        return True

    def close(self, w: World) -> bool:
        """As the mediator does, or because its driver is unbound. While it waits for an offer, Closed is no news."""
        waits = w.phase == "initialising" and w.state != "closing" and not w.disowned
        if waits or w.phase in {"closing", "closed"}:
            return False
        self.enter(w, "closing")
        w.reset = ""
        return True

    def end(self, w: World) -> None:
        """All requests are back."""
        self.take_back(w)
        self.enter(w, "closed")
        w.looked = ""

    def see_closed(self, w: World) -> bool:
        if w.phase != "closing" or w.state != "closed":
            return False
        self.end(w)
        return True

    def see_closing(self, w: World) -> bool:
        if w.phase != "closing" or w.state != "closing" or w.looked or not any(w.kinds):
            return False
        w.looked = "closing"
        return True

    def read_held_pages(self, w: World) -> bool:
        if w.looked != "closing":
            return False
        if self.faults.module_reads_heads_first:
            w.looked = "no heads held" if w.heads is None else ""
            return True
        w.looked = "held" if w.held_pages else ""
        return True

    def read_heads(self, w: World) -> bool:
        if self.faults.module_reads_heads_first:
            if w.looked != "no heads held":
                return False
            if w.held_pages:
                self.take_back(w)
            w.looked = ""
            return True
        if w.looked != "held":
            return False
        heads = w.heads
        if heads is None and self.faults.absent_means_none:
            heads = (False,) * self.scope.requests
        if heads is not None:
            self.take_back(w, tuple(not held for held in heads))
        w.looked = ""
        return True

    def see_swept(self, w: World) -> bool:
        if w.phase != "closing" or not w.swept:
            return False
        self.end(w)
        return True

    def reopen(self, w: World) -> bool:
        """After Closed; or the toolstack has made the directories anew, and nothing is in flight any more."""
        anew = w.disowned and w.front == "initialising" and w.phase in {"closing", "closed"} and not any(w.kinds)
        if not anew and not (w.phase == "closed" and w.state == "closed" and w.online and not w.disowned):
            return False
        w.disowned, w.looked = False, ""
        self.enter(w, "initialising")
        return True

    def time_out(self, w: World) -> bool:
        if w.phase != "closing":
            return False
        self.end(w)
        return True

    def see_gone(self, w: World) -> bool:
        if w.phase != "closing" or w.state is not None:
            return False
        self.end(w)
        return True

    # ---- the kernel's own grants -------------------------------------------------------------------------------------

    def kernel_grants(self, w: World) -> bool:
        """Linux stores without looking. The guard frame keeps it to free entries, unless requests live very long."""
        if w.kernel_granted or (w.entries[0].word != FREE and self.scope.kernel != "any entry"):
            return False
        word = granted("", "somebody else", NOWHERE, writable=True)
        w.entries = changed(w.entries, 0, w.entries[0].write(word))
        w.kernel_granted = True
        return True

    def kernel_ends(self, w: World) -> bool:
        if not w.kernel_granted:
            return False
        w.entries = changed(w.entries, 0, w.entries[0].write(FREE))
        w.kernel_granted = False
        return True
