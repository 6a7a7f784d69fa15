# SPDX-License-Identifier: GPL-2.0-or-later
"""What is reported, in which units, and the goals that the project set itself. It holds no measured figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CURVE_SEGMENTS = "chain_ns_by_segments"
CURVE_MEMORY = "chain_ns_by_memory_mib"
CURVE_PAST = "chain_ns_by_past_requests"
CURVE_IDLE_QUEUES = "chains_per_second_by_idle_queues"


@dataclass(frozen=True)
class Goal:
    """`relation` and `limit` in the figure's own unit."""

    relation: Literal["<=", "<", ">="]
    limit: float

    def met(self, value: float) -> bool:
        """Whether a median meets the goal."""
        if self.relation == ">=":
            return value >= self.limit
        return value < self.limit if self.relation == "<" else value <= self.limit


@dataclass(frozen=True)
class Figure:
    """A figure, in the order of the report. Values are divided by `scale` before they are shown in `unit`."""

    name: str
    label: str
    unit: str
    digits: int = 1
    scale: float = 1.0
    goal: Goal | None = None

    def show(self, value: float) -> str:
        """A value in the figure's unit."""
        return f"{value / self.scale:.{self.digits}f}"


FIGURES = (
    Figure("floor_ns", "relay without checks: the floor", "ns"),
    Figure("one_segment_ns", "chain of one page", "ns"),
    Figure("one_segment_dynamic_ns", "the same, dynamic window", "ns"),
    Figure("blk_chain_ns", "virtio-blk request", "ns"),
    Figure("one_segment_cleared_ns", "chain of one page, cleared first", "ns"),
    Figure("memset_page_ns", "clearing a page, by itself", "ns"),
    Figure("one_segment_over_floor", "chain of one page / floor", "x", 2, goal=Goal("<=", 6.0)),
    Figure("cleared_over_budget", "cleared / (6 x floor + 1.4 x clearing)", "x", 2, goal=Goal("<=", 1.0)),
    Figure("blk_chain_over_one_segment", "virtio-blk / chain of one page", "x", 2, goal=Goal("<=", 2.5)),
    Figure("chains_per_second_depth128", "requests, depth 128, two cores", "M/s", 2, 1e6, Goal(">=", 2e6)),
    Figure("chains_per_second_depth128_mean", "the same, whoever had the cores", "M/s", 2, 1e6),
    Figure("chains_per_second_undisturbed_share", "time that the cores were ours", "%", 0, 0.01),
    Figure("depth1_round_trip_us", "depth 1, asleep: round trip", "us"),
    Figure("depth1_kicks_per_request", "depth 1: kicks", "/req", 2),
    Figure("depth1_interrupts_per_request", "depth 1: interrupts", "/req", 2),
    Figure("depth1_worker_wakeups_per_request", "depth 1: wake-ups of the worker", "/req", 2),
    Figure("depth1_notify_time_share", "depth 1: time spent notifying", "%", 0, 0.01),
    Figure("idle_cpu_percent", "idle devices: processor time", "% core", 2, goal=Goal("<", 1.0)),
    Figure("idle_rss_mib", "idle devices: resident memory", "MiB", goal=Goal("<", 200.0)),
)


@dataclass(frozen=True)
class Curve:
    """A curve of the report: `name` is svq_bench's; the rest says how it is shown."""

    name: str
    title: str
    x_label: str
    figure: Figure  # how its values are shown

    @property
    def y_label(self) -> str:
        """For axes and column heads."""
        return f"{self.figure.label}, {self.figure.unit}"


_COST = Figure("", "cost per chain", "ns")
_RATE = Figure("", "requests", "M/s", 2, 1e6)

CURVES = (
    Curve(CURVE_SEGMENTS, "By segments", "segments per chain (4 KiB each)", _COST),
    Curve(CURVE_MEMORY, "By guest memory", "guest memory, MiB", _COST),
    Curve(CURVE_PAST, "By past requests", "requests served before", _COST),
    Curve(CURVE_IDLE_QUEUES, "By idle queues", "idle queues beside the busy one", _RATE),
)


def goal_of(name: str) -> Goal | None:
    """The goal of a figure, if there is one."""
    return next((figure.goal for figure in FIGURES if figure.name == name), None)
