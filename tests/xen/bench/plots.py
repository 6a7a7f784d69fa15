# SPDX-License-Identifier: GPL-2.0-or-later
"""The report's plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.xen.bench.figures import COUNTS
from tests.xen.bench.ways import PLAIN

mpl.use("Agg")

# Grey: what there is without us; blue and green: ours; red: the mail's.
_COLORS = {
    "plain": "#555555",
    "swiotlb": "#e08214",
    "xen-blkback-persistent": "#999999",
    "xen-blkback": "#cccccc",
    "exact-strict": "#2166ac",
    "page-strict": "#b2182b",
    "copy": "#1b7837",
    "exact-strict-fixed": "#67a9cf",
    "copy-fixed": "#7fbf7b",
}
_OTHER = "#762a83"
_WIDTH = 0.8
Data = Mapping[str, Any]


def _ways(data: Data) -> list[str]:
    return [name for name, way in data["ways"].items() if way["state"] == "measured"]


def _bars(axes: Axes, groups: Sequence[str], ways: Sequence[str], value: Any, error: Any = None) -> None:
    """A group of bars for each of `groups`, a bar for each way; what is None has no bar."""
    width = _WIDTH / max(1, len(ways))
    for place, way in enumerate(ways):
        found = [(x, value(way, group), group) for x, group in enumerate(groups) if value(way, group) is not None]
        if not found:
            continue
        at = [x - _WIDTH / 2 + (place + 0.5) * width for x, _, _ in found]
        heights = [height for _, height, _ in found]
        around = [error(way, group) for _, _, group in found] if error else []
        axes.bar(at, heights, width=width * 0.92, color=_COLORS.get(way, _OTHER), label=way)
        if around:
            axes.errorbar(at, heights, yerr=[*zip(*around, strict=True)], fmt="none", ecolor="black", lw=0.7)
    axes.set_xticks(range(len(groups)), groups, size=7, rotation=20, ha="right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def draw_shares(data: Data, path: Path) -> None:
    """Each way's share of plain virtio, or of the best that there is, job by job; the lines are the quartiles."""
    base = "share_of_plain" if PLAIN in _ways(data) else "share_of_blkback"
    spreads = data["spread"][base]

    def around(way: str, job: str) -> tuple[float, float]:
        spread = spreads[way][job]
        return spread["median"] - spread["lower_quartile"], spread["upper_quartile"] - spread["median"]

    canvas = Figure(figsize=(13, 5), layout="constrained")
    axes = canvas.subplots()
    jobs = [job for job in data["jobs"] if any(job in found for found in spreads.values())]
    _bars(axes, jobs, _ways(data), lambda way, job: data[base][way][job], around)
    axes.axhline(1, color="black", lw=0.8, ls=":")
    axes.set_ylabel(base.replace("_", " "), size=9)
    axes.set_title("Throughput, counted in instructions; medians", loc="left", size=10)
    axes.legend(frameon=False, fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    canvas.savefig(path, dpi=100)


def draw_counts(data: Data, path: Path) -> None:
    """What a request costs whatever the machine."""
    canvas = Figure(figsize=(13, 3.6), layout="constrained")
    for axes, name in zip(canvas.subplots(1, len(COUNTS)).flat, COUNTS, strict=True):
        ways = [way for way in _ways(data) if data["per_request"][way][name] is not None]
        axes.bar(
            ways, [data["per_request"][way][name] for way in ways], color=[_COLORS.get(way, _OTHER) for way in ways]
        )
        axes.set_title(name.replace("_", " ") + " per request", loc="left", size=9)
        axes.tick_params(labelsize=7)
        axes.set_xticks(range(len(ways)), ways, rotation=60, ha="right", size=7)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, dpi=100)
