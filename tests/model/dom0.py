# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0: it ends the mediator's domain, and with `shadowvq ctl` it sweeps for one that is gone, detaches and attaches.

Every command has the guest's lock for as long as it runs: `dom0` of the state is the command under way.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.explore import Step
from tests.model.mediator import Mediator
from tests.model.world import MARK, Faults, Scope, World, changed
from tests.model.xen import FREE


class Dom0:
    """Its steps."""

    def __init__(self, scope: Scope, faults: Faults, mediator: Mediator) -> None:
        self.scope = scope
        self.faults = faults
        self.mediator = mediator

    def steps(self) -> Iterator[Step[World]]:
        """All steps."""
        if not self.scope.toolstack:
            return
        yield Step("dom0 destroys the mediator's domain", self.destroy_mediator, honest=False)
        yield Step("ctl sweep finds the mediator gone", self.begin_sweep, honest=True)
        yield Step("ctl sweep ends the next entry", self.sweep_entry, honest=True)
        yield Step("ctl sweep has swept, and counts it", self.count, honest=True)
        yield Step("ctl sweep finds pages held, and will look again", self.look_again, honest=True)
        yield Step("ctl detach tells the mediator", self.detach, honest=False)
        yield Step("ctl detach sees that the mediator has let go, and counts it", self.detached, honest=True)
        yield Step("ctl attach makes the device anew", self.attach, honest=False)
        if self.faults.commands_overlap:
            yield Step("another ctl sweep finds nothing held any more", self.overlap, honest=False)
            yield Step("the other ctl sweep counts it", self.count_late, honest=False)

    def destroy_mediator(self, w: World) -> bool:
        """Its directories go with it, the grants do not."""
        if not w.domain:
            return False
        self.mediator.forget(w)
        w.domain = False
        w.state, w.held_pages, w.heads, w.reset_done = None, False, None, False
        return True

    def begin_sweep(self, w: World) -> bool:
        if w.domain or not w.recorded or w.dom0:
            return False
        w.dom0, w.dom0_cursor = "sweeping", 0
        return True

    def sweep_entry(self, w: World) -> bool:
        if w.dom0 != "sweeping" or w.dom0_cursor == len(w.entries):
            return False
        p = w.dom0_cursor
        word = w.entries[p].word
        if word.mark == MARK:
            w.entries = changed(
                w.entries, p, w.entries[p].write(self.mediator.data.held_form(word) if word.mapped else FREE)
            )
        w.dom0_cursor += 1
        return True

    def is_held(self, w: World) -> bool:
        """Something was left by the sweep."""
        return any(entry.word.mark == MARK for entry in w.entries)

    def count(self, w: World) -> bool:
        """The device is orphaned: nothing of it is left but the frontend's half, which is taken away as well."""
        done = w.dom0 == "sweeping" and w.dom0_cursor == len(w.entries)
        if not done or (self.is_held(w) and not self.faults.swept_although_held):
            return False
        w.dom0, w.dom0_cursor, w.swept = "", 0, True
        self.forget(w)
        return True

    def forget(self, w: World) -> None:
        """The frontend's half goes last, and with it the mark; the count of sweeps stays."""
        w.recorded, w.online, w.front, w.disowned = False, False, None, True

    def look_again(self, w: World) -> bool:
        if w.dom0 != "sweeping" or w.dom0_cursor < len(w.entries) or not self.is_held(w):
            return False
        w.dom0, w.dom0_cursor = "", 0
        return True

    def detach(self, w: World) -> bool:
        if not w.domain or not w.online or w.dom0 or not w.recorded:
            return False
        w.online = False
        return True

    def detached(self, w: World) -> bool:
        if not w.domain or w.online or not w.recorded or w.dom0:
            return False
        gone = w.state is None or (self.faults.detach_although_held and w.held_pages)
        if not gone:
            return False
        w.swept = True
        self.forget(w)
        return True

    def attach(self, w: World) -> bool:
        """To a mediator that runs, in a domain that may be another. The record's count goes on from where it stood."""
        if w.recorded or w.dom0:
            return False
        w.recorded, w.online, w.domain, w.front = True, True, True, "initialising"
        w.state, w.held_pages, w.heads, w.reset_done = "initialising", False, None, False
        if self.faults.swept_starts_anew:
            w.swept = False
        return True

    def overlap(self, w: World) -> bool:
        if w.domain or not w.recorded or w.late or self.is_held(w):
            return False
        w.late = True
        return True

    def count_late(self, w: World) -> bool:
        if not w.late or not w.recorded:
            return False
        w.late, w.swept = False, True
        return True
