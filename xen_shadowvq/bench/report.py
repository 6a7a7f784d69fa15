# SPDX-License-Identifier: GPL-2.0-or-later
"""From samples to the report: medians and spreads, curves, goals; as JSON and as tables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from xen_shadowvq.bench.errors import BenchmarkFailed
from xen_shadowvq.bench.figures import CURVE_MEMORY, CURVE_PAST, CURVE_SEGMENTS, CURVES, FIGURES, Curve, Figure
from xen_shadowvq.bench.idle import IdleCost, cpu_resolution_percent
from xen_shadowvq.bench.samples import Samples
from xen_shadowvq.bench.spread import Point, Spread, curve, flatness, line, linearity

LINEARITY_AT = (8, 128)  # segments


@dataclass(frozen=True)
class Report:
    """All figures and curves. `derived` are single numbers read off the curves."""

    figures: dict[str, Spread]
    curves: dict[str, list[Point]]
    derived: dict[str, float]
    ratios: dict[str, list[float]]  # round by round, of the figures that are compared on one core
    idle: IdleCost
    machine: dict[str, str | int | float]
    rounds: int


def make(samples: Samples, idle: IdleCost, rounds: int, machine: dict[str, str | int | float]) -> Report:
    """BenchmarkFailed: samples of a figure or a curve are missing."""
    values = {name: [value for _, value in pairs] for name, pairs in samples.items()}
    values |= {"idle_cpu_percent": idle.cpu_percent, "idle_rss_mib": idle.rss_mib}
    for name in (*(figure.name for figure in FIGURES), *(c.name for c in CURVES)):
        if not values.get(name):
            raise BenchmarkFailed(name, "there are no samples of it", b"")
    curves = {c.name: curve(samples[c.name]) for c in CURVES}
    slope, intercept = line(curves[CURVE_SEGMENTS])
    derived = {
        "segment_slope_ns": slope,
        "segment_intercept_ns": intercept,
        "segment_cost_128_over_8": linearity(curves[CURVE_SEGMENTS], *LINEARITY_AT),
        "memory_worst_over_smallest": flatness(curves[CURVE_MEMORY]),
        "past_requests_worst_over_first": flatness(curves[CURVE_PAST]),
    }
    ratios = {name: values[name] for name in ("one_segment_over_floor", "blk_chain_over_one_segment")}
    figures = {figure.name: Spread.of(values[figure.name]) for figure in FIGURES}
    return Report(figures, curves, derived, ratios, idle, machine, rounds)


def machine_facts() -> dict[str, str | int | float]:
    """What the figures were measured on, without its name or anything about its owner."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return {
        "cpu": models[0] if models else os.uname().machine,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{os.uname().sysname} {os.uname().release} {os.uname().machine}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def as_json(report: Report) -> dict[str, Any]:
    """Medians at the top level; the spread of the samples under `figures`, the targets under `goals`."""
    return {
        **{name: spread.median for name, spread in report.figures.items()},
        **report.derived,
        "idle_devices": report.idle.devices,
        "idle_cpu_resolution_percent": cpu_resolution_percent(report.idle.windows_s),
        "idle_rss_parts_mib": {
            "own": report.idle.anon_mib,
            "program_and_libraries": report.idle.file_mib,
            "shared_with_guests_and_backends": report.idle.shared_mib,
        },
        "rounds": report.rounds,
        "machine": report.machine,
        "goals": {
            figure.name: {
                "relation": figure.goal.relation,
                "limit": figure.goal.limit,
                "met": figure.goal.met(report.figures[figure.name].median),
            }
            for figure in FIGURES
            if figure.goal
        },
        "figures": {name: spread.as_json() for name, spread in report.figures.items()},
        "curves": {
            name: [{"x": point.x, **point.y.as_json()} for point in points] for name, points in report.curves.items()
        },
    }


def show(report: Report, console: Console) -> None:
    """Prints the curves as small tables, then all figures with their goals."""
    for shown in CURVES:
        console.print(_curve_table(shown, report.curves[shown.name]))
    d = report.derived
    console.print(
        f"By segments: {d['segment_intercept_ns']:.1f} ns + {d['segment_slope_ns']:.1f} ns per segment (least squares);"
        f" each of 128 segments costs {d['segment_cost_128_over_8']:.2f} x each of 8."
    )
    console.print(_figure_table(report))
    idle = report.idle
    console.print(
        f"Idle: {idle.devices} connected devices, {idle.windows_s:g} s at a time; processor time shows in steps of"
        f" {cpu_resolution_percent(idle.windows_s):.2g} %; resident memory is VmRSS, shared memory included:"
        f" {idle.anon_mib:.1f} MiB its own, {idle.file_mib:.1f} program and libraries,"
        f" {idle.shared_mib:.1f} shared with guests and backends."
    )


def _curve_table(shown: Curve, points: list[Point]) -> Table:
    table = _table(shown.title, shown.x_label, shown.y_label, "min", "max")
    for point in points:
        values = (point.y.median, point.y.min, point.y.max)
        table.add_row(f"{point.x:,.0f}", *(shown.figure.show(value) for value in values))
    return table


def _figure_table(report: Report) -> Table:
    table = _table(f"Medians of {report.rounds} rounds", "", "median", "min", "max", "", "goal", "")
    table.columns[0].justify = table.columns[4].justify = "left"
    for figure in FIGURES:
        spread = report.figures[figure.name]
        values = (spread.median, spread.min, spread.max)
        table.add_row(figure.label, *(figure.show(v) for v in values), figure.unit, *_verdict(figure, spread.median))
    return table


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _verdict(figure: Figure, median: float) -> tuple[str, str]:
    if figure.goal is None:
        return "", ""
    limit = f"{figure.goal.relation} {figure.goal.limit / figure.scale:g}"
    return limit, "[green]met" if figure.goal.met(median) else "[bold red]missed"
