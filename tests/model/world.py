# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of the model: one device of one guest, its pages, and everybody who has a hand in them.

Bounds: one or two requests of one or more pages each, a grant entry for each page. What a state leaves out cannot
matter to the rule: the bytes themselves, lengths, time. A page is the guest's own secret from the moment that its
driver has it back, so whoever reaches it then has found a hole.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

from tests.model.xen import Entry

BACKEND = "backend"
MARK = "A"
NOWHERE = -1
Value = TypeVar("Value")


@dataclass(frozen=True)
class Scope:
    """What happens in this world, to keep it small enough: all of it is looked at in some world."""

    requests: int = 1
    pages_each: int = 1
    kinds: tuple[str, ...] = ("read", "write")  # what a request may be: the device writes its pages, or reads them
    read_only_mappings: bool = True  # a backend that maps what it may write only to read it
    ring_reset: bool = False
    toolstack: bool = False  # the mediator's domain may be destroyed; dom0 sweeps, detaches, attaches anew
    neighbour: str = (
        ""  # another device of the guest uses the same page as well, by "its own entry" or "the same entry"
    )
    kernel: str = (
        ""  # nothing is reserved: the guest's kernel grants a page of its own in "a free entry" or "any entry"
    )
    deaths: bool = True  # the mediator's process may die

    def pages_of(self, r: int) -> range:
        """The pages of a request."""
        return range(r * self.pages_each, (r + 1) * self.pages_each)

    def request_of(self, p: int) -> int:
        """The request of a page."""
        return p // self.pages_each


@dataclass(frozen=True)
class Faults:
    """Mistakes that can be put in: each was made by somebody, or nearly. The model has to find every one of them."""

    used_before_end: bool = False  # the driver sees the used entry before the grants have ended
    end_without_looking: bool = False  # an entry is set to 0 whether or not it is mapped
    end_in_two_steps: bool = False  # looks whether it is mapped, then sets it to 0 (XSA-396)
    type_stays: bool = False  # a held entry gets GTF_readonly, and keeps its type
    no_readonly: bool = False  # a held entry loses its type alone: who reads the page may still come to write it
    middle_kept: bool = False  # of a run, pages are ended from both ends as far as the first that is held
    closed_although_held: bool = False  # stopping the device tries once, and then it is Closed
    sigterm_forgets: bool = False  # a mediator that is told to end says Closed, whatever is held
    reset_done_early: bool = False  # a queue's reset is acknowledged while a request of it lives
    state_before_sweep: bool = False  # a mediator that starts makes its offer first, and sweeps when it connects
    refusal_says_closed: bool = False  # one that cannot serve the device writes Closed at once
    sweep_once: bool = False  # what is held after the sweep is only counted
    sweep_without_mark: bool = False  # whatever stands in the window is taken for a mediator's
    one_mark: bool = False  # all devices of a guest have the same mark
    two_processes: bool = False  # the mediator can be started while it runs
    absent_means_none: bool = False  # no `queue-{n}/held`: no request is held
    stale_nodes: bool = False  # `held-pages` and `queue-{n}/held` stay as they were when the device closes
    module_times_out: bool = False  # the module takes everything back when it has waited long enough
    module_trusts_gone: bool = False  # or when the mediator's directory is gone
    module_reads_heads_first: bool = False  # it reads `queue-{n}/held` before `held-pages`
    not_cleared: bool = False  # pages that the backend may write are granted as they are
    take_without_looking: bool = False  # an entry is taken although it is not 0
    take_in_two_steps: bool = False  # looks whether it is 0, then stores the grant, where others take entries as well
    swept_although_held: bool = False  # dom0 counts a sweep that left pages held
    detach_although_held: bool = False  # dom0 lets go of the device while pages are held
    swept_starts_anew: bool = False  # the record is made anew with each attach
    commands_overlap: bool = False  # dom0's commands do not wait for each other
    overwritten_is_ended: bool = (
        False  # an entry in which the guest's kernel wrote is taken for ended, though nothing was reserved
    )


@dataclass(slots=True)
class World:
    """A state."""

    # --- the guest
    kinds: tuple[str, ...]  # of each request that the driver has given away: "read", "write"; "": it has its pages
    old: tuple[bool, ...]  # pages given away in which bytes stand that are no part of the request
    phase: str = "initialising"  # where its module stands
    looked: str = ""  # while it is closing, what the module has just read of the mediator: "", "closing", "held"
    disowned: bool = False  # its directory was taken away: what stands there since is not the module's
    reset: str = ""  # of its queue: "asked"
    kernel_granted: bool = False  # its kernel has an entry of its own in the window
    # --- Xen
    entries: tuple[Entry, ...] = ()
    # --- XenStore: the two directories of leg 1, and dom0's record
    front: str | None = "initialising"
    state: str | None = "initialising"
    held_pages: bool = False
    heads: tuple[bool, ...] | None = None  # queue-0/held; None: absent
    reset_done: bool = False
    online: bool = True
    recorded: bool = True
    swept: bool = False  # has grown since the frontend connected
    # --- shared rings
    used: tuple[bool, ...] = ()  # the mediator's answers to the driver
    answered: tuple[bool, ...] = ()  # the backend's to the mediator
    # --- the mediator
    domain: bool = True  # it lives, or at least XenStore knows of it
    at: str = "down"  # how far its program is
    cursor: int = 0  # of a sweep
    knows_heads: bool = True  # it knows what is in flight: it put it there
    requests: tuple[str, ...] = ()  # its record of each: "", "placing", "placed", "ending", "held"
    pages: tuple[str, ...] = ()  # and of each page: "", "cleared", "seen free", "granted", "seen unmapped", "held",
    # "lost": the guest's kernel has overwritten it, "copied"
    # --- the backend, dom0, the other device
    backend: bool = True  # its domain lives
    dom0: str = ""  # what a command of its is at
    dom0_cursor: int = 0
    late: bool = False  # a command of its that overlaps others has decided to count a sweep
    neighbour: str = ""  # "given", "granted", "copied", "held", "lost": granted by a mediator that died

    @classmethod
    def initial(cls, scope: Scope) -> World:
        """A device that was just attached."""
        requests, pages = scope.requests, scope.requests * scope.pages_each
        nothing = ("",) * requests
        no = (False,) * requests
        return cls(
            kinds=nothing, old=(False,) * pages, used=no, answered=no,
            entries=(Entry(),) * (pages + (scope.neighbour == "its own entry")),
            requests=nothing, pages=("",) * pages,
        )  # fmt: skip

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The names of all that a state is."""
        return tuple(field.name for field in fields(cls))


def changed(values: tuple[Value, ...], index: int, value: Value) -> tuple[Value, ...]:
    """The tuple with another value at `index`."""
    return (*values[:index], value, *values[index + 1 :])
