# SPDX-License-Identifier: GPL-2.0-or-later
"""From latencies to ratios: what each attack costs the neighbour; as JSON and as a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from xen_shadowvq.bench.fairness import rounds
from xen_shadowvq.bench.fairness.attacks import ATTACKS, Attack
from xen_shadowvq.bench.fairness.load import Precedence
from xen_shadowvq.bench.fairness.other_process import BUSY_DEPTH, BUSY_LENGTHS
from xen_shadowvq.bench.fairness.rounds import Comparison, Measured, Phase
from xen_shadowvq.bench.figures import Goal
from xen_shadowvq.bench.spread import Spread

GOALS = {"median": Goal("<=", 2.0), "p99": Goal("<=", 5.0)}
SHARES = {"median": 0.5, "p99": 0.99}

HOW = (
    f"Ratios are medians over the rounds of: a percentile beside the attack / the same over the two phases beside the "
    f"busy guest before and after it. A phase is {rounds.REQUESTS} requests of 4 KiB, one due every "
    f"{rounds.INTERVAL_US} us; a latency counts from when the request was due if one before it was late, so no pause "
    f"is left out. The busy guest has {BUSY_DEPTH} requests of {', '.join(f'{n // 1024}' for n in BUSY_LENGTHS)} KiB "
    "in flight. The worker has a processor to itself; all else shares the others, with the neighbour and its "
    "backend first"
)


def percentile(latencies_us: Sequence[float], share: float) -> float:
    """The lowest of the sorted latencies that the given share of them does not exceed."""
    return latencies_us[max(0, math.ceil(share * len(latencies_us)) - 1)]


@dataclass(frozen=True)
class Verdict:
    """One attack: its ratios, round by round, and what they were computed from."""

    attack: Attack
    comparisons: list[Comparison]
    ratios: dict[str, list[float]]  # by the names of SHARES

    @classmethod
    def of(cls, attack: Attack, comparisons: list[Comparison]) -> Verdict:
        """Compares."""
        ratios: dict[str, list[float]] = {name: [] for name in SHARES}
        for found in comparisons:
            calm = sorted(found.before.latencies_us + found.after.latencies_us)
            for name, share in SHARES.items():
                ratios[name].append(percentile(found.during.latencies_us, share) / percentile(calm, share))
        return cls(attack, comparisons, ratios)

    def ratio(self, name: str) -> float:
        """The median of a ratio over the rounds."""
        return statistics.median(self.ratios[name])

    def met(self, name: str) -> bool:
        """Whether it meets its goal."""
        return GOALS[name].met(self.ratio(name))

    @property
    def quiet_rounds(self) -> int:
        """Rounds in which no stranger had the processors."""
        return sum(found.quiet for found in self.comparisons)


@dataclass(frozen=True)
class Report:
    """All attacks, in their order."""

    verdicts: list[Verdict]
    alone: list[Phase]
    machine: dict[str, str | int | float]
    rounds: int
    how: str

    @property
    def calm(self) -> list[Phase]:
        """All phases beside the busy guest, each once."""
        phases = [
            phase for verdict in self.verdicts for found in verdict.comparisons for phase in (found.before, found.after)
        ]
        return list({id(phase): phase for phase in phases}.values())


def make(measured: Measured, wanted: int, precedence: Precedence, machine: dict[str, str | int | float]) -> Report:
    """Makes the report. `machine` is what report.machine_facts returns."""
    by_name = {attack.name: attack for attack in ATTACKS}
    verdicts = [Verdict.of(by_name[name], found) for name, found in measured.comparisons.items()]
    return Report(verdicts, measured.alone, machine, wanted, f"{HOW} ({precedence.value}).")


def as_json(report: Report) -> dict[str, Any]:
    """By attack: `median_ratio`, `p99_ratio`, and under `rounds` what they were computed from."""
    return {
        "attacks": {verdict.attack.name: _verdict_as_json(verdict) for verdict in report.verdicts},
        "goals": {f"{name}_ratio": asdict(goal) for name, goal in GOALS.items()},
        "busy": _figures_over(report.calm),
        "alone": _figures_over(report.alone),
        "rounds": report.rounds,
        "how": report.how,
        "machine": report.machine,
    }


def _verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "label": verdict.attack.label,
        "median_ratio": verdict.ratio("median"),
        "p99_ratio": verdict.ratio("p99"),
        "met": all(verdict.met(name) for name in GOALS),
        "quiet_rounds": verdict.quiet_rounds,
        **{f"{name}_ratio_spread": Spread.of(values).as_json() for name, values in verdict.ratios.items()},
        "rounds": [
            {
                "median_ratio": verdict.ratios["median"][at],
                "p99_ratio": verdict.ratios["p99"][at],
                **{name: _phase_as_json(getattr(found, name)) for name in ("before", "during", "after")},
            }
            for at, found in enumerate(verdict.comparisons)
        ],
    }


def _phase_as_json(phase: Phase) -> dict[str, Any]:
    return {
        **_figures(phase.latencies_us),
        "unserved": phase.unserved,
        "did": phase.did,
        "processor_shares": asdict(phase.shares),
    }


def _figures(latencies_us: Sequence[float]) -> dict[str, float]:
    figures = {f"{name}_us": percentile(latencies_us, share) for name, share in SHARES.items()}
    return figures | {"max_us": latencies_us[-1], "requests": len(latencies_us)}


def _figures_over(phases: list[Phase]) -> dict[str, float]:
    return _figures(sorted(latency for phase in phases for latency in phase.latencies_us))


def show(report: Report, console: Console) -> None:
    """Prints a line for each attack."""
    table = Table(
        title=f"A neighbour's latency beside an attack, medians of {report.rounds} rounds",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("attack", no_wrap=True)
    for head in ("median, us", "x", "p99, us", "x", "max, ms", "quiet"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, phases in (("none: alone", report.alone), ("none: a busy guest", report.calm)):
        table.add_row(name, *_cells(_figures_over(phases), dict.fromkeys(GOALS, "")), "")
    for verdict in report.verdicts:
        figures = _figures_over([found.during for found in verdict.comparisons])
        ratios = {name: _colour(verdict.met(name), f"{verdict.ratio(name):.2f}") for name in GOALS}
        quiet = f"{verdict.quiet_rounds}/{len(verdict.comparisons)}"
        table.add_row(verdict.attack.label, *_cells(figures, ratios), quiet)
    console.print(table)
    goals = " and ".join(f"{goal.relation} {goal.limit:g} of the {name}" for name, goal in GOALS.items())
    console.print(
        f"x: times the latency beside the busy guest; the goal is {goals} (! is missed). {report.how} Quiet: rounds in "
        f"which strangers had at most {rounds.QUIET:.0%} of a processor."
    )


def _colour(met: bool, text: str) -> str:
    return f"[green]{text}" if met else f"[bold red]{text} !"


def _cells(figures: dict[str, float], ratios: dict[str, str]) -> list[str]:
    cells = []
    for name, ratio in ratios.items():
        cells += [f"{figures[f'{name}_us']:.0f}", ratio]
    return [*cells, f"{figures['max_us'] / 1000:.1f}"]
