# SPDX-License-Identifier: GPL-2.0-or-later
"""The worlds that are looked at, and for each mistake one of them in which it shows, and as what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.model.life import NEVER_BACK, NOT_ENDED, OLD_BYTES, OTHERS, THE_RULE
from tests.model.world import Faults, Scope

_WHOLE = Scope(ring_reset=True, toolstack=True)
_BRIEF = Scope(kinds=("read",), read_only_mappings=False)
_MIRROR = Scope(toolstack=True, kinds=("write",))

WORLDS = {
    "one page": _WHOLE,
    "a run of three pages": replace(_BRIEF, pages_each=3),
    "two requests": replace(_BRIEF, requests=2, ring_reset=True),
    "two disks, one page, one entry": replace(_MIRROR, neighbour="the same entry"),
    "two disks, one page, an entry each": replace(_MIRROR, neighbour="its own entry"),
    "nothing reserved": replace(_WHOLE, kernel="a free entry"),
    "nothing reserved, and the guest's kernel writes anywhere": Scope(
        kinds=("read",), kernel="any entry", deaths=False
    ),
}


@dataclass(frozen=True)
class Shown:
    """Where a mistake shows: the rule that it breaks, and the world."""

    rule: str
    world: str = "one page"


SHOWN = {
    "used_before_end": Shown(THE_RULE),
    "end_without_looking": Shown(THE_RULE),
    "end_in_two_steps": Shown(THE_RULE),
    "type_stays": Shown(NOT_ENDED),
    "no_readonly": Shown(NOT_ENDED),
    "middle_kept": Shown(NOT_ENDED, "a run of three pages"),
    "closed_although_held": Shown(THE_RULE),
    "sigterm_forgets": Shown(THE_RULE),
    "reset_done_early": Shown(THE_RULE),
    "state_before_sweep": Shown(THE_RULE),
    "refusal_says_closed": Shown(THE_RULE),
    "sweep_once": Shown(THE_RULE),
    "sweep_without_mark": Shown(OTHERS, "nothing reserved"),
    "one_mark": Shown(OTHERS, "two disks, one page, an entry each"),
    "two_processes": Shown(THE_RULE),
    "absent_means_none": Shown(THE_RULE),
    "stale_nodes": Shown(THE_RULE, "two requests"),
    "module_times_out": Shown(THE_RULE),
    "module_trusts_gone": Shown(THE_RULE),
    "module_reads_heads_first": Shown(THE_RULE),
    "not_cleared": Shown(OLD_BYTES),
    "take_without_looking": Shown(OTHERS, "two disks, one page, one entry"),
    "take_in_two_steps": Shown(OTHERS, "two disks, one page, one entry"),
    "swept_although_held": Shown(THE_RULE),
    "detach_although_held": Shown(THE_RULE),
    "swept_starts_anew": Shown(NEVER_BACK),
    "commands_overlap": Shown(THE_RULE),
    "overwritten_is_ended": Shown(THE_RULE, "nothing reserved, and the guest's kernel writes anywhere"),
}


def with_fault(name: str) -> Faults:
    """The model with one mistake in it."""
    return Faults(**{name: True})
