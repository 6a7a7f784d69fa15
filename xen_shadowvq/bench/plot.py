# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as one picture of small multiples."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, MaxNLocator

from xen_shadowvq.bench.figures import (
    CURVE_IDLE_QUEUES,
    CURVE_MEMORY,
    CURVE_PAST,
    CURVE_SEGMENTS,
    CURVES,
    FIGURES,
    Curve,
    goal_of,
)
from xen_shadowvq.bench.report import Report

mpl.use("Agg")

_BLUE, _GREY, _RED = "#2166ac", "#777777", "#b2182b"
_BARS = (("floor_ns", "floor"), ("one_segment_ns", "one page"), ("blk_chain_ns", "virtio-blk"))
_BAR_GOALS = ("one_segment_over_floor", "blk_chain_over_one_segment")  # of each bar but the first, over the one before


def draw(report: Report, path: Path) -> None:
    """Saves the picture as PNG."""
    canvas = Canvas(figsize=(13, 7.5), layout="constrained")
    costs, ratios, segments, memory, past, idle = canvas.subplots(2, 3).flat
    _draw_costs(costs, report)
    _draw_ratios(ratios, report)
    for axes, curve in zip((segments, memory, past, idle), CURVES, strict=True):
        _draw_curve(axes, curve, report)
    x_max = max(point.x for point in report.curves[CURVE_SEGMENTS])
    slope, intercept = report.derived["segment_slope_ns"], report.derived["segment_intercept_ns"]
    label = f"{intercept:.0f} + {slope:.1f} ns per segment"
    segments.plot([0, x_max], [intercept, intercept + slope * x_max], "--", color=_GREY, lw=1, label=label)
    segments.legend(frameon=False, loc="upper left", fontsize=8)
    memory.set_xscale("log", base=2)
    memory.set_xticks([point.x for point in report.curves[CURVE_MEMORY]])
    memory.xaxis.set_major_formatter("{x:g}")
    past.xaxis.set_major_formatter(EngFormatter(sep=""))
    ratios.xaxis.set_major_locator(MaxNLocator(integer=True))
    facts = report.machine
    canvas.suptitle(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['kernel']}; medians of {report.rounds} rounds", size=9
    )
    canvas.savefig(path, dpi=110)


def _target(axes: Axes, y: float, text: str) -> None:
    axes.axhline(y, color=_RED, lw=1, ls=":")
    axes.text(0.99, y, text, color=_RED, size=8, ha="right", va="bottom", transform=axes.get_yaxis_transform())


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", size=10)
    axes.set_xlabel(x_label, size=8)
    axes.set_ylabel(y_label, size=8)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.08)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_costs(axes: Axes, report: Report) -> None:
    spreads = [report.figures[name] for name, _ in _BARS]
    medians = [spread.median for spread in spreads]
    below = [spread.median - spread.min for spread in spreads]
    above = [spread.max - spread.median for spread in spreads]
    axes.bar([label for _, label in _BARS], medians, width=0.5, color=[_GREY, _BLUE, _BLUE])
    axes.errorbar(range(len(medians)), medians, yerr=[below, above], fmt="none", ecolor="black", capsize=3, lw=1)
    for position, name in enumerate(_BAR_GOALS, start=1):
        goal = goal_of(name)
        if goal:
            y = goal.limit * medians[position - 1]
            axes.plot([position - 0.4, position + 0.4], [y, y], ":", color=_RED, lw=1)
            axes.text(position - 0.4, y, f"{goal.limit:g} x", color=_RED, size=8, ha="right", va="center")
    _finish(axes, "Cost per chain, one core", "", "cost per chain, ns")


def _draw_ratios(axes: Axes, report: Report) -> None:
    labels = {figure.name: figure.label for figure in FIGURES}
    for (name, values), color in zip(report.ratios.items(), (_BLUE, _GREY), strict=True):
        axes.plot(range(1, len(values) + 1), values, "o-", ms=4, lw=1, color=color, label=labels[name])
        goal = goal_of(name)
        if goal:
            _target(axes, goal.limit, f"goal {goal.limit:g}")
    axes.legend(frameon=False, fontsize=8, loc="center right")
    _finish(axes, "Ratios, round by round", "round", "ratio")


def _draw_curve(axes: Axes, curve: Curve, report: Report) -> None:
    points, scale = report.curves[curve.name], curve.figure.scale
    xs, ys = [point.x for point in points], [point.y.median / scale for point in points]
    low = [point.y.lower_quartile / scale for point in points]
    high = [point.y.upper_quartile / scale for point in points]
    axes.fill_between(xs, low, high, color=_BLUE, alpha=0.2, lw=0)
    axes.plot(xs, ys, "o-", ms=4, lw=1, color=_BLUE)
    over_floor, throughput = goal_of("one_segment_over_floor"), goal_of("chains_per_second_depth128")
    if over_floor and curve.name in {CURVE_MEMORY, CURVE_PAST}:
        _target(axes, over_floor.limit * report.figures["floor_ns"].median, f"goal {over_floor.limit:g} x floor")
    elif throughput and curve.name == CURVE_IDLE_QUEUES:
        _target(axes, throughput.limit / scale, f"goal {throughput.limit / scale:g} {curve.figure.unit}")
    _finish(axes, curve.title, curve.x_label, curve.y_label)
