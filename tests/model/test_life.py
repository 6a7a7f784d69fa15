# SPDX-License-Identifier: GPL-2.0-or-later
"""A page's life, all of it, in small bounds: the rule holds, and each mistake that was made once would be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from tests.model.life import THE_RULE, Life
from tests.model.world import Faults
from tests.model.worlds import SHOWN, WORLDS, with_fault

pytestmark = pytest.mark.model

Record = Callable[[str, object], None]


@pytest.mark.parametrize("world", WORLDS)
def test_the_rule_holds(world: str, record_property: Record) -> None:
    """In no state can a backend reach a page that the driver has back, and everybody can always get out again."""
    explored = Life(WORLDS[world]).explore()

    record_property("proved", f"{world}: {explored.states:,} states, {explored.steps:,} steps")
    assert explored.finding is None, str(explored.finding)
    assert explored.never == (), "the world is poorer than it looks"


@pytest.mark.parametrize("fault", [field.name for field in fields(Faults)])
def test_a_mistake_is_found(fault: str, record_property: Record) -> None:
    """With the mistake put in, the rule that it breaks is broken, and the way there can be told."""
    shown = SHOWN[fault]

    explored = Life(WORLDS[shown.world], with_fault(fault)).explore()

    assert explored.finding is not None
    assert explored.finding.rule == shown.rule, str(explored.finding)
    record_property("found", f"{fault} after {len(explored.finding.trace)} steps, in {explored.states:,} states")


def test_what_a_reservation_is_for(record_property: Record) -> None:
    """Known limit: a mediator that starts cannot see what a guest has overwritten which reserved nothing."""
    world = "nothing reserved, and the guest's kernel writes anywhere"

    explored = Life(replace(WORLDS[world], deaths=True)).explore()

    assert explored.finding is not None
    assert explored.finding.rule == THE_RULE
    assert "the guest's kernel grants a page of its own" in explored.finding.trace
    record_property("found", f"what a reservation is for, after {len(explored.finding.trace)} steps")
