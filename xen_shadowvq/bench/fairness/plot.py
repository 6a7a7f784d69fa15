# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as a picture: ratios round by round with their goals, and how the latencies are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from xen_shadowvq.bench.fairness.report import GOALS, Report
from xen_shadowvq.bench.fairness.rounds import Phase

mpl.use("Agg")

_BLUE, _GREY, _RED = "#2166ac", "#777777", "#b2182b"
_POINTS = 2000  # at most, of a curve


def draw(report: Report, path: Path) -> None:
    """Writes a PNG."""
    canvas = Canvas(figsize=(15, 5.5), layout="constrained")
    medians, p99s, tails = canvas.subplots(1, 3, width_ratios=(1, 1, 1.3))
    _draw_ratios(medians, report, "median", "Median latency")
    _draw_ratios(p99s, report, "p99", "99th percentile")
    p99s.set_yticklabels([])
    _draw_tails(tails, report)
    facts = report.machine
    canvas.suptitle(
        f"A neighbour on the same worker: {facts['cpu']}, {facts['cores']} cores, {facts['kernel']}; "
        f"{report.rounds} rounds",
        size=9,
    )
    canvas.savefig(path, dpi=110)


def _draw_ratios(axes: Axes, report: Report, name: str, title: str) -> None:
    labels = [verdict.attack.label for verdict in report.verdicts]
    for row, verdict in enumerate(report.verdicts):
        color = _BLUE if verdict.met(name) else _RED
        axes.plot(verdict.ratios[name], [row] * len(verdict.ratios[name]), "o", ms=4, color=color, alpha=0.35)
        axes.plot(verdict.ratio(name), row, "|", ms=16, mew=2, color=color)
    goal = GOALS[name].limit
    axes.axvline(goal, color=_RED, lw=1, ls=":")
    axes.text(goal, -0.9, f" goal {goal:g}", color=_RED, size=8, va="center")
    axes.axvline(1, color=_GREY, lw=1)
    axes.set_yticks(range(len(labels)), labels, size=8)
    axes.set_ylim(len(labels) - 0.5, -1.3)
    _finish(axes, title, "times the latency beside a busy guest")


def _draw_tails(axes: Axes, report: Report) -> None:
    _draw_tail(axes, report.alone, "nobody", {"color": _GREY, "ls": ":"})
    _draw_tail(axes, report.calm, "a busy guest", {"color": "black", "lw": 2})
    for verdict in report.verdicts:
        _draw_tail(axes, [found.during for found in verdict.comparisons], verdict.attack.label, {"lw": 1})
    axes.axhline(0.01, color=_GREY, lw=1, ls=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.legend(frameon=False, fontsize=7, title="beside", title_fontsize=8)
    _finish(axes, "Requests that took longer than ...", "latency, us")


def _draw_tail(axes: Axes, phases: Sequence[Phase], label: str, style: dict[str, object]) -> None:
    latencies = sorted(latency for phase in phases for latency in phase.latencies_us)
    # the tail matters: all of the slowest points, and ever fewer of the others
    ranks = sorted({min(len(latencies), round(1.01**power)) for power in range(_POINTS)}, reverse=True)
    axes.plot([latencies[-rank] for rank in ranks], [rank / len(latencies) for rank in ranks], label=label, **style)  # type: ignore[arg-type]


def _finish(axes: Axes, title: str, x_label: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(title, loc="left", size=10)
    axes.set_xlabel(x_label, size=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
