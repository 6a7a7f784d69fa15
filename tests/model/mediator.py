# SPDX-License-Identifier: GPL-2.0-or-later
"""The mediator's control plane: what it does when it starts, its states on leg 1, and how it closes.

Each step is one write to XenStore, or one look at an entry. Between any two of them it may die.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.model.data_plane import TRIED, DataPlane
from tests.model.explore import Step
from tests.model.world import MARK, Faults, Scope, World, changed
from tests.model.xen import FREE, Word

LETS_CLOSE = {"closing", "closed", None}  # of the frontend; None: its directory is gone


class Mediator:
    """Its steps. `at` of the state is where its program stands."""

    def __init__(self, scope: Scope, faults: Faults) -> None:
        self.scope = scope
        self.faults = faults
        self.data = DataPlane(scope, faults)

    def steps(self) -> Iterator[Step[World]]:
        """All steps."""
        if self.scope.deaths:
            yield Step("the mediator dies", self.die, honest=False)
        yield Step("a mediator starts", self.start, honest=True)
        yield Step("the mediator sweeps the next entry", self.sweep_entry, honest=True)
        yield Step("the mediator has swept", self.end_sweep, honest=True)
        yield Step("the mediator makes an offer: InitWait", self.offer, honest=True)
        yield Step("the mediator connects: Connected", self.connect, honest=True)
        yield from self.data.steps()
        if self.scope.ring_reset:
            yield Step("the mediator acknowledges the reset", self.acknowledge_reset, honest=True)
        yield from self._closing()
        if self.faults.two_processes:
            yield Step("a second mediator starts beside the first", self.start_twice, honest=False)
            yield Step("the first mediator goes on, and grants page 0", self.first_grants, honest=True)
        if self.faults.refusal_says_closed:
            yield Step("the mediator cannot serve the device, and writes Closed", self.refuse, honest=False)
        if self.faults.sigterm_forgets:
            yield Step("the mediator is told to end, closes its devices and says Closed", self.sigterm, honest=False)

    def _closing(self) -> Iterator[Step[World]]:
        yield Step("the mediator begins to close: Closing", self.begin_close, honest=True)
        yield Step("the mediator stops, and leaves the rings alone", self.stop, honest=True)
        yield Step("the mediator has tried to end every page", self.stopped, honest=True)
        yield Step("the mediator writes which heads are held", self.tell_heads, honest=True)
        yield Step("the mediator writes held-pages", self.tell_pages, honest=True)
        yield Step("the mediator writes Closing", self.tell_closing, honest=True)
        if self.scope.deaths:
            for p in range(self.scope.requests * self.scope.pages_each):
                yield Step(f"the mediator sweeps page {p} again", partial(self.sweep_again, p=p), honest=True)
        if self.scope.kernel == "any entry":
            yield Step("the mediator hears that the backend's domain has ended", self.hear_of_end, honest=True)
        yield Step("the mediator sees how much is still held", self.look_again, honest=True)
        yield Step("the mediator writes held-pages 0", self.clear_held_pages, honest=True)
        yield Step("the mediator removes the held heads", self.clear_heads, honest=True)
        yield Step("the mediator writes Closed", self.settle, honest=True)
        if self.scope.toolstack:
            yield Step("the mediator removes its directory", self.leave, honest=True)

    # ---- life ------------------------------------------------------------------------------------------------------

    def die(self, w: World) -> bool:
        if w.at == "down":
            return False
        self.forget(w)
        return True

    def forget(self, w: World) -> None:
        """Its memory is gone; entries, the driver's rings and XenStore stay as they are."""
        w.at, w.cursor, w.knows_heads = "down", 0, True
        w.requests, w.pages = ("",) * len(w.requests), ("",) * len(w.pages)
        w.answered = (False,) * len(w.answered)

    def start(self, w: World) -> bool:
        if w.at != "down" or w.state is None:
            return False
        w.at, w.knows_heads = "settling" if self.faults.state_before_sweep else "sweeping", False
        return True

    def is_swept(self, word: Word) -> bool:
        """Does a sweep take the entry for one of this device's?"""
        return word != FREE if self.faults.sweep_without_mark else word.mark == MARK

    def is_left(self, w: World) -> bool:
        """Is there still an entry that a sweep has to look at again?"""
        return any(self.is_swept(entry.word) for entry in w.entries)

    def sweep_entry(self, w: World) -> bool:
        if w.at != "sweeping" or w.cursor == len(w.entries):
            return False
        if self.is_swept(w.entries[w.cursor].word):
            self.data.end_entry(w, w.cursor)
        w.cursor += 1
        return True

    def end_sweep(self, w: World) -> bool:
        if w.at != "sweeping" or w.cursor < len(w.entries):
            return False
        w.cursor = 0
        w.at = "telling heads" if self.is_left(w) and not self.faults.sweep_once else "clearing held pages"
        return True

    def offer(self, w: World) -> bool:
        """One that has just swept makes its offer, unless it finds a close to be finished."""
        fresh = w.at == "settling" and not w.knows_heads and w.state not in {"closing", "closed"}
        if not w.online or not (fresh or (w.at == "closed" and w.front == "initialising")):
            return False
        w.at, w.state, w.knows_heads = "offering", "init-wait", True
        return True

    def connect(self, w: World) -> bool:
        if w.at != "offering" or w.front != "initialised":
            return False
        w.at, w.state = "serving", "connected"
        w.reset_done = False
        return True

    def acknowledge_reset(self, w: World) -> bool:
        """Once the queue's requests have all ended."""
        if w.at != "serving" or w.reset != "asked" or w.reset_done:
            return False
        if any(w.requests) and not self.faults.reset_done_early:
            return False
        w.reset_done = True
        return True

    # ---- closing ---------------------------------------------------------------------------------------------------

    def begin_close(self, w: World) -> bool:
        """For whatever reason: the frontend closes, a peer lied, a page is held, the operator or systemd wants it."""
        if w.at not in {"serving", "offering"} or (w.at == "offering" and w.front == "initialised"):
            return False
        w.state = "closing"
        w.at = "draining" if w.at == "serving" else "settling"
        return True

    def stop(self, w: World) -> bool:
        """Between two passes of the worker."""
        if w.at != "draining" or "placing" in w.requests or "ending" in w.requests:
            return False
        w.at = "stopping"
        return True

    def stopped(self, w: World) -> bool:
        if w.at != "stopping" or any(page not in TRIED for page in w.pages):
            return False
        w.requests = tuple("held" if self.data.is_held(w, r) else "" for r in range(len(w.requests)))
        w.answered = (False,) * len(w.answered)
        if any(w.requests) and not self.faults.closed_although_held:
            w.at = "telling heads"
        else:
            w.requests, w.pages = ("",) * len(w.requests), ("",) * len(w.pages)
            w.at = "settling"
        return True

    def held_heads(self, w: World) -> tuple[bool, ...] | None:
        """What `queue-0/held` has to be. Absent: any of them may be held, for this mediator does not know."""
        return tuple(request == "held" for request in w.requests) if w.knows_heads else None

    def tell_heads(self, w: World) -> bool:
        """And again whenever one more has ended."""
        again = w.at == "holding" and w.heads != self.held_heads(w)
        if w.at != "telling heads" and not again:
            return False
        w.heads = self.held_heads(w)
        w.at = "holding" if again else "telling pages"
        return True

    def tell_pages(self, w: World) -> bool:
        if w.at != "telling pages":
            return False
        w.held_pages, w.at = True, "telling closing"
        return True

    def tell_closing(self, w: World) -> bool:
        if w.at != "telling closing":
            return False
        w.state, w.at = "closing", "holding"
        return True

    def sweep_again(self, w: World, p: int) -> bool:
        """What an earlier mediator left. Its own it tries again as DataPlane.end_page does."""
        if w.at != "holding" or w.knows_heads or not self.is_swept(w.entries[p].word):
            return False
        return self.data.end_entry(w, p)

    def hear_of_end(self, w: World) -> bool:
        """All its mappings are gone, whatever the entries look like."""
        if w.backend or "lost" not in w.pages:
            return False
        w.pages = tuple("" if page == "lost" else page for page in w.pages)
        return True

    def look_again(self, w: World) -> bool:
        """A request whose last held page has ended is held no more; with the last of all, closing goes on."""
        if w.at != "holding":
            return False
        before = w.requests
        w.requests = tuple("held" if self.data.is_held(w, r) else "" for r in range(len(w.requests)))
        if any(w.pages) if w.knows_heads else self.is_left(w):
            return w.requests != before
        w.at = "settling" if self.faults.stale_nodes else "clearing held pages"
        return True

    def clear_held_pages(self, w: World) -> bool:
        """Nodes of one closing are not left for the next: neither by who wrote them, nor by who comes after."""
        if w.at != "clearing held pages":
            return False
        if self.faults.stale_nodes:
            w.at = "settling"
        else:
            w.held_pages, w.at = False, "clearing heads"
        return True

    def clear_heads(self, w: World) -> bool:
        if w.at != "clearing heads":
            return False
        w.heads, w.at = None, "settling"
        return True

    def settle(self, w: World) -> bool:
        """Closed: when the frontend is closing too, or the device is taken away. It may have been Closed before."""
        offers = not w.knows_heads and w.state not in {"closing", "closed"} and w.online
        found_closed = not w.knows_heads and w.state == "closed"
        if w.at != "settling" or offers or not (w.front in LETS_CLOSE or not w.online or found_closed):
            return False
        w.state, w.at, w.knows_heads = "closed", "closed", True
        return True

    def leave(self, w: World) -> bool:
        if w.at != "closed" or w.online:
            return False
        w.state, w.held_pages, w.heads, w.reset_done = None, False, None, False
        self.forget(w)
        return True

    # ---- mistakes --------------------------------------------------------------------------------------------------

    def start_twice(self, w: World) -> bool:
        """The first, which this forgets, has the request in its hands."""
        if w.at != "serving" or not w.kinds[0] or w.old[0] or w.entries[0].word != FREE:
            return False
        self.forget(w)
        w.at, w.knows_heads = "first goes on", False
        return True

    def first_grants(self, w: World) -> bool:
        if w.at != "first goes on":
            return False
        w.entries = changed(w.entries, 0, w.entries[0].write(self.data.granted_form(w, 0)))
        w.at = "settling"
        return True

    def refuse(self, w: World) -> bool:
        if w.at != "down" or w.state is None:
            return False
        w.state = "closed"
        return True

    def sigterm(self, w: World) -> bool:
        if w.at != "serving" or "placing" in w.requests or "ending" in w.requests:
            return False
        for p, page in enumerate(w.pages):
            if page in {"granted", "held"}:
                self.data.end_entry(w, p)
        w.state = "closed"
        self.forget(w)
        return True
