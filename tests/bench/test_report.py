# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's report: medians, spreads, lines, goals, and benchmarks that do not run to their end."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from xen_shadowvq.bench import plot, report
from xen_shadowvq.bench.errors import BenchmarkFailed
from xen_shadowvq.bench.figures import CURVES, FIGURES
from xen_shadowvq.bench.idle import IdleCost
from xen_shadowvq.bench.samples import Samples, run_case
from xen_shadowvq.bench.spread import Spread, curve, flatness, line, linearity

ROUNDS = 5
FACTS: dict[str, str | int | float] = {
    "cpu": "a processor",
    "cores": 2,
    "kernel": "Linux 6.1 x86_64",
    "load_before": 0.5,
}


def idle_cost(cpu_percent: float = 0.2) -> IdleCost:
    return IdleCost(64, 5.0, [cpu_percent] * 3, [60.0, 61.0, 62.0], 40.0, 15.0, 7.0)


def made_up_samples(**medians: float) -> Samples:
    """Five rounds of everything, spread evenly by two units around 10, or around the median given."""
    samples: Samples = {}
    for figure in FIGURES:
        if not figure.name.startswith("idle"):
            middle = medians.get(figure.name, 10.0)
            samples[figure.name] = [(r, middle + r - 2) for r in range(ROUNDS)]
    for shown in CURVES:
        samples[shown.name] = [(x, 30.0 + 40.0 * x) for _ in range(ROUNDS) for x in (8.0, 128.0, 1.0)]
    return samples


def made_up_report(**medians: float) -> report.Report:
    return report.make(made_up_samples(**medians), idle_cost(), ROUNDS, FACTS)


def shown(made: report.Report) -> list[str]:
    """The report's lines, as a terminal without colours has them."""
    text = StringIO()
    report.show(made, Console(file=text, width=200))
    return text.getvalue().splitlines()


def line_of(made: report.Report, name: str) -> str:
    label = next(figure.label for figure in FIGURES if figure.name == name)
    return next(text for text in shown(made) if label in text)


def program(directory: Path, script: str) -> Path:
    """A stand-in for svq_bench."""
    path = directory / "svq_bench"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_spread_is_where_the_samples_lie() -> None:
    """One outlier moves the maximum and neither the median nor the quartiles."""
    assert Spread.of([4, 1, 3, 100, 2]) == Spread(3, 1, 2, 4, 100, 5)
    assert Spread.of([7]) == Spread(7, 7, 7, 7, 7, 1)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


def test_curve_gathers_rounds_by_position() -> None:
    """Points come in order of x, each with the median of its rounds."""
    points = curve([(8, 2), (1, 5), (8, 4), (1, 7), (8, 3), (1, 6)])
    assert [(point.x, point.y.median, point.y.samples) for point in points] == [(1, 6, 3), (8, 3, 3)]


def test_line_and_linearity_of_a_straight_curve() -> None:
    """Of 30 + 40x the line finds both numbers, and a part of 128 costs less than one of 8 by the fixed share."""
    points = curve([(x, 30 + 40 * x) for x in (1, 2, 8, 64, 128)])
    assert line(points) == pytest.approx((40, 30))
    assert linearity(points, 8, 128) == pytest.approx((40 + 30 / 128) / (40 + 30 / 8))
    assert linearity(curve([(x, x * x) for x in (8, 128)]), 8, 128) == 16


def test_flatness_is_the_worst_over_the_first() -> None:
    """A curve that rises anywhere shows it, also when it comes down again."""
    assert flatness(curve([(0, 10), (1, 15), (2, 10)])) == 1.5


def test_json_has_medians_at_the_top_and_all_the_rest_below() -> None:
    """Whoever reads engine.json finds plain numbers under the names that the project promises, and their spreads."""
    found = json.loads(json.dumps(report.as_json(made_up_report(one_segment_over_floor=5.0))))
    assert found["one_segment_over_floor"] == 5
    assert found["figures"]["one_segment_over_floor"] == {
        "median": 5, "min": 3, "lower_quartile": 4, "upper_quartile": 6, "max": 7, "samples": ROUNDS
    }  # fmt: skip
    promised = ("floor_ns", "one_segment_ns", "blk_chain_over_one_segment", "chains_per_second_depth128")
    assert all(isinstance(found[name], int | float) for name in (*promised, "idle_cpu_percent", "idle_rss_mib"))
    assert (found["idle_devices"], found["idle_rss_mib"]) == (64, 61)
    assert found["segment_slope_ns"] == pytest.approx(40)
    assert found["machine"] == FACTS


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("one_segment_over_floor", 6.0, 6.01),
        ("blk_chain_over_one_segment", 2.5, 2.51),
        ("chains_per_second_depth128", 2e6, 1.99e6),
    ],
)
def test_missed_goal_is_shown_as_missed(name: str, good: float, bad: float) -> None:
    """A median on the right side of its goal is met, one on the other side is missed, in the table and in the JSON."""
    for value, verdict in ((good, "met"), (bad, "missed")):
        made = made_up_report(**{name: value})
        assert line_of(made, name).split()[-1] == verdict
        assert report.as_json(made)["goals"][name]["met"] is (verdict == "met")


def test_goal_of_idle_time_is_below_and_not_at() -> None:
    """Exactly one percent is not less than one percent."""
    made = report.make(made_up_samples(), idle_cost(1.0), ROUNDS, FACTS)
    assert "missed" in line_of(made, "idle_cpu_percent")


def test_missing_samples_are_an_error_and_not_a_hole() -> None:
    """A report is whole or it is not made."""
    samples = made_up_samples()
    del samples["blk_chain_ns"]
    with pytest.raises(BenchmarkFailed, match="blk_chain_ns"):
        report.make(samples, idle_cost(), ROUNDS, FACTS)


def test_picture_is_drawn(tmp_path: Path) -> None:
    """Made-up figures come out as a PNG."""
    plot.draw(made_up_report(), tmp_path / "engine.png")
    assert (tmp_path / "engine.png").read_bytes().startswith(b"\x89PNG")


def test_samples_are_gathered_and_rounds_counted(tmp_path: Path) -> None:
    """What svq_bench prints comes back by name; the end of each round is told and is no sample."""
    lines = [f'{{"case": "{name}", "x": {r}, "value": 2.5}}' for r in range(2) for name in ("floor_ns", "round_done")]
    rounds: list[int] = []
    echo = program(tmp_path, "cat <<END\n" + "\n".join(lines) + "\nEND")
    assert run_case(echo, "engine", 2, lambda: rounds.append(1)) == {"floor_ns": [(0, 2.5), (1, 2.5)]}
    assert len(rounds) == 2


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("""echo '{"case": "floor_ns", "x": 0, "value": 1}'; echo lost >&2; exit 3""", "status 3\nlost"),
        ("kill -ABRT $$", "status -6"),
        ("echo hello", "not a sample\nhello"),
        ('echo \'{"case": "floor_ns"}\'', "not a sample"),
        ("exit 0", "no samples"),
    ],
)
def test_broken_benchmark_is_an_error_that_names_the_case(tmp_path: Path, script: str, reason: str) -> None:
    """However svq_bench fails, its samples are not used, and the error says which case failed and what it said."""
    with pytest.raises(BenchmarkFailed) as caught:
        run_case(program(tmp_path, script), "curves", 5, lambda: None)
    assert str(caught.value).startswith("benchmark curves: ")
    assert reason in str(caught.value)
    assert caught.value.case == "curves"


def test_missing_program_is_an_error_that_names_the_case(tmp_path: Path) -> None:
    """An installation without svq_bench says so."""
    with pytest.raises(BenchmarkFailed, match="benchmark engine: svq_bench could not be started"):
        run_case(tmp_path / "svq_bench", "engine", 5, lambda: None)
