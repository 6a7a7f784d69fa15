# SPDX-License-Identifier: GPL-2.0-or-later
"""
The order of measuring: the neighbour beside the busy guest, then beside a hostile one, then beside the busy guest
again, and so on through all attacks, round after round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xen_shadowvq.bench.fairness.load import Shares
from xen_shadowvq.bench.fairness.other_process import BUSY
from xen_shadowvq.bench.fairness.stage import Stage

ALONE = "alone"
"""The neighbour with nobody beside it, for comparison."""

REQUESTS = 4000
INTERVAL_US = 500
MOST_S = 10.0
MORE_ROUNDS = 2
"""At most this many more, for attacks whose rounds strangers disturbed."""

QUIET = 0.1
"""A phase counts as undisturbed if strangers had at most this share of a processor."""


@dataclass(frozen=True)
class Phase:
    """What the neighbour saw beside `beside`: its sorted latencies. `did` is what the other one did meanwhile."""

    beside: str
    latencies_us: tuple[float, ...]
    unserved: int
    did: dict[str, Any]
    shares: Shares

    @property
    def quiet(self) -> bool:
        """Whether the processors were ours."""
        return self.shares.others <= QUIET


@dataclass(frozen=True)
class Comparison:
    """An attack between two phases beside the busy guest."""

    before: Phase
    during: Phase
    after: Phase

    @property
    def strangers(self) -> float:
        """What strangers had of a processor in the worst of the three phases."""
        return max(phase.shares.others for phase in (self.before, self.during, self.after))

    @property
    def quiet(self) -> bool:
        """Whether the processors were ours in all three."""
        return self.before.quiet and self.during.quiet and self.after.quiet


@dataclass(frozen=True)
class Measured:
    """The comparisons by attack, in their order, and the phases of the neighbour alone."""

    comparisons: dict[str, list[Comparison]]
    alone: list[Phase]


def measure(stage: Stage, attacks: Sequence[str], rounds: int, on_phase: Callable[[str], None]) -> Measured:
    """
    Measures `rounds` rounds, and more for attacks that strangers disturbed. Of each attack's comparisons, the `rounds`
    least disturbed ones are used.
    """
    found: dict[str, list[Comparison]] = {attack: [] for attack in attacks}
    alone = []
    for turn in range(rounds + MORE_ROUNDS):
        todo = [a for a in attacks if turn < rounds or sum(c.quiet for c in found[a]) < rounds]
        if not todo:
            break
        if turn < rounds:
            alone.append(_run(stage, ALONE, on_phase))
        before = _run(stage, BUSY, on_phase)
        for attack in todo:
            during, after = _run(stage, attack, on_phase), _run(stage, BUSY, on_phase)
            found[attack].append(Comparison(before, during, after))
            before = after
    return Measured({attack: _least_disturbed(of, rounds) for attack, of in found.items()}, alone)


def _least_disturbed(comparisons: list[Comparison], count: int) -> list[Comparison]:
    used = sorted(comparisons, key=lambda c: (not c.quiet, c.strangers if not c.quiet else 0.0))[:count]
    return [c for c in comparisons if c in used]


def _run(stage: Stage, beside: str, on_phase: Callable[[str], None]) -> Phase:
    on_phase(beside)
    other = stage.others.get(beside)
    if other:
        other.call("begin")
    meter = stage.meter()
    found = stage.neighbour.call("measure", requests=REQUESTS, interval_us=INTERVAL_US, most_s=MOST_S)
    shares = meter.shares()
    did = other.call("end") if other else {}
    return Phase(beside, tuple(found["latencies_us"]), found["unserved"], did, shares)
