# SPDX-License-Identifier: GPL-2.0-or-later
"""The fairness benchmark's report: percentiles, ratios, which rounds count, goals; and who runs where meanwhile."""

from __future__ import annotations

import json
import os
import threading
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from domU_frontend.blk import Result
from xen_shadowvq.bench.fairness import load, neighbour_process, plot, report, rounds
from xen_shadowvq.bench.fairness.attacks import ATTACKS
from xen_shadowvq.bench.fairness.load import Precedence, Processors, Shares
from xen_shadowvq.bench.fairness.other_process import BUSY
from xen_shadowvq.bench.fairness.rounds import ALONE, MORE_ROUNDS, QUIET, Comparison, Measured, Phase

FACTS: dict[str, str | int | float] = {"cpu": "a processor", "cores": 2, "kernel": "Linux", "load_before": 0.5}
ATTACK = ATTACKS[0].name
MS = 1_000_000


def phase(beside: str, *latencies_us: float, strangers: float = 0.0) -> Phase:
    return Phase(beside, tuple(sorted(latencies_us)), 0, {}, Shares(0.5, 0.0, 0.1, strangers))


def flat(beside: str, median_us: float, p99_us: float, strangers: float = 0.0) -> Phase:
    """A phase of 100 requests with that median and that percentile, and a longest that is neither."""
    return phase(beside, *[median_us] * 98, p99_us, 10 * p99_us, strangers=strangers)


def comparison(median: float, p99: float, strangers: float = 0.0) -> Comparison:
    """An attack that makes latencies so many times as long as the busy guest does."""
    during = flat(ATTACK, 50 * median, 100 * p99, strangers)
    return Comparison(flat(BUSY, 50, 100), during, flat(BUSY, 50, 100))


def made(*comparisons: Comparison) -> report.Report:
    measured = Measured({ATTACK: list(comparisons)}, [flat(ALONE, 40, 60)])
    return report.make(measured, len(comparisons), Precedence.OTHERS_IDLE, FACTS)


def test_percentile_is_a_latency_that_was_measured() -> None:
    """Nearest rank: of 200 latencies two may be longer than the 99th percentile, and the median is the 100th."""
    latencies = list(range(1, 201))
    assert (report.percentile(latencies, 0.99), report.percentile(latencies, 0.5)) == (198, 100)
    assert report.percentile([7.0], 0.99) == report.percentile([7.0], 0.5) == 7


def test_ratio_is_to_both_neighbouring_phases() -> None:
    """What changes slowly during the run, before the attack or after it, is in the baseline by half."""
    slow_then_fast = Comparison(phase(BUSY, *[100] * 99), phase(ATTACK, 150), phase(BUSY, *[200] * 101))
    assert made(slow_then_fast).verdicts[0].ratio("median") == 0.75
    assert made(slow_then_fast).verdicts[0].ratio("p99") == 0.75


def test_json_has_both_ratios_of_each_attack() -> None:
    """Medians over the rounds, so one bad round of five moves neither, and all rounds lie below them."""
    found = json.loads(json.dumps(report.as_json(made(*[comparison(1.5, 3)] * 2, comparison(9, 90), comparison(1, 2)))))
    attack = found["attacks"][ATTACK]
    assert (attack["median_ratio"], attack["p99_ratio"], attack["met"]) == (1.5, 3, True)
    assert [one["p99_ratio"] for one in attack["rounds"]] == [3, 3, 90, 2]
    assert attack["rounds"][2]["during"] | {"did": {}} == {
        "median_us": 450, "p99_us": 9000, "max_us": 90000, "requests": 100, "unserved": 0, "did": {},
        "processor_shares": {"worker": 0.5, "worker_waited": 0.0, "control": 0.1, "others": 0.0},
    }  # fmt: skip
    assert found["goals"]["p99_ratio"] == {"relation": "<=", "limit": 5.0}


@pytest.mark.parametrize(("median", "p99", "met"), [(2, 5, True), (2.1, 5, False), (2, 5.1, False)])
def test_missed_goal_is_shown_as_missed(median: float, p99: float, met: bool) -> None:
    """Twice the median and five times the 99th percentile are good, more is not, in the table and in the JSON."""
    one, text = made(comparison(median, p99)), StringIO()
    report.show(one, Console(file=text, width=80))
    line = next(line for line in text.getvalue().splitlines() if ATTACKS[0].label in line)
    assert ("!" not in line) is met
    assert [f"{median:.2f}" in line, f"{p99:.2f}" in line] == [True, True]
    assert report.as_json(one)["attacks"][ATTACK]["met"] is met


def test_picture_is_drawn(tmp_path: Path) -> None:
    """Made-up latencies come out as a PNG."""
    plot.draw(made(comparison(1, 1), comparison(3, 9)), tmp_path / "fairness.png")
    assert (tmp_path / "fairness.png").read_bytes().startswith(b"\x89PNG")


class Scripted:
    """A stage on which phase number `n` takes `strangers[n]` of a processor away; `played` is what was run."""

    def __init__(self, strangers: dict[int, float]) -> None:
        self.played: list[str] = []
        self._strangers = strangers
        self.others = {name: self._other(name) for name in (BUSY, "one", "two")}
        self.neighbour = SimpleNamespace(call=lambda *_, **__: {"latencies_us": [1.0], "unserved": 0})

    def _other(self, name: str) -> Any:
        return SimpleNamespace(call=lambda method: self.played.append(name) if method == "begin" else {})

    def meter(self) -> Any:
        return SimpleNamespace(shares=lambda: Shares(0, 0, 0, self._strangers.get(len(self.played) - 1, 0.0)))


def test_each_attack_lies_between_two_baselines() -> None:
    """Round after round: busy, attack, busy, attack, busy; the phase between two attacks belongs to both."""
    stage = Scripted({})
    found = rounds.measure(stage, ["one", "two"], 2, lambda _: None)  # type: ignore[arg-type]
    assert stage.played == [BUSY, "one", BUSY, "two", BUSY] * 2
    first, second = found.comparisons["one"][0], found.comparisons["two"][0]
    assert first.after is second.before
    assert len(found.alone) == 2


def test_disturbed_rounds_are_measured_again() -> None:
    """What strangers disturbed is tried again, alone, and not used where there is better."""
    stage = Scripted({1: 2 * QUIET})
    found = rounds.measure(stage, ["one", "two"], 2, lambda _: None)  # type: ignore[arg-type]
    assert stage.played[10:] == [BUSY, "one", BUSY]
    assert [c.strangers for c in found.comparisons["one"]] == [0, 0]


def test_a_machine_that_is_never_quiet_ends_all_the_same() -> None:
    """After so many rounds more the least disturbed are used, and they say so."""
    stage = Scripted({n: 1.0 - n / 1000 for n in range(1000)})
    found = rounds.measure(stage, ["one"], 2, lambda _: None)  # type: ignore[arg-type]
    assert stage.played == [BUSY, "one", BUSY] * (2 + MORE_ROUNDS)
    kept = found.comparisons["one"]
    assert [c.strangers for c in kept] == [1.0 - 3 * n / 1000 for n in (2, 3)]
    assert not any(c.quiet for c in kept)


def neighbour(monkeypatch: pytest.MonkeyPatch, took_ms: list[float]) -> neighbour_process.NeighbourProcess:
    """One whose request number n takes `took_ms[n]`, on a clock that only requests and sleeping move."""
    clock = SimpleNamespace(now=0)

    def run(_: Any, __: int) -> list[Result]:
        took = int(took_ms.pop(0) * MS)
        clock.now += took
        return [Result(took, 0, 1, 0)]

    def sleep(seconds: float) -> None:
        clock.now += int(seconds * 1e9)

    monkeypatch.setattr(neighbour_process, "time", SimpleNamespace(monotonic_ns=lambda: clock.now, sleep=sleep))
    one = object.__new__(neighbour_process.NeighbourProcess)
    one._driver = SimpleNamespace(run=run)  # type: ignore[assignment]
    monkeypatch.setattr(one, "_request", lambda turn: turn, raising=False)
    return one


def test_latencies_count_from_when_requests_were_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of 3.5 ms is one long request, and three more that had to wait for it; what is on time is as it is."""
    one = neighbour(monkeypatch, [0.25, 3.5, 0.25, 0.25, 0.25, 0.25, 0.25])
    found = one.measure(requests=7, interval_us=1000, most_s=10)
    assert found == {"latencies_us": sorted([250, 3500, 2750, 2000, 1250, 500, 250]), "unserved": 0}


def test_requests_that_could_not_be_made_count_with_their_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a phase ends in a pause, those that were due by then are not left out, and those that were not are."""
    one = neighbour(monkeypatch, [0.25, 3.5])
    found = one.measure(requests=100, interval_us=1000, most_s=0.004)
    assert found == {"latencies_us": [250, 500, 1500, 2500, 3500], "unserved": 3}


def test_the_worker_has_a_processor_for_itself() -> None:
    """The worker gets the last processor, if there are at least two."""
    assert Processors.divide({0, 1, 5}) == Processors(5, frozenset({0, 1}))
    assert Processors.divide({3}) == Processors(3, frozenset({3}))


def test_we_keep_off_the_workers_processor_meanwhile() -> None:
    """This process leaves the worker's processor alone, and gets it back."""
    before = os.sched_getaffinity(0)
    with load.keep_off_the_worker() as processors:
        assert os.sched_getaffinity(0) == processors.others
    assert os.sched_getaffinity(0) == before == processors.all


def test_the_worker_is_found_by_where_it_may_run() -> None:
    """It is the one thread that is pinned to its processor; a meter then reads what it had of it."""
    ready, done = threading.Event(), threading.Event()
    pinned = []
    processors = Processors.divide(os.sched_getaffinity(0))

    def spin() -> None:
        os.sched_setaffinity(0, {processors.worker})
        pinned.append(threading.get_native_id())
        ready.set()
        while not done.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        ready.wait()
        (found,) = pinned
        if len(processors.all) > 1:
            assert load.pinned_thread(os.getpid(), processors.worker) == found
        meter = load.Meter(processors, os.getpid(), found, [])
        ran, _ = load.thread_times_ns(os.getpid(), found)
        while load.thread_times_ns(os.getpid(), found)[0] - ran < 50 * MS:
            done.wait(0.01)
        shares = meter.shares()
    finally:
        done.set()
        thread.join()
    assert shares.worker > 0
    assert min(shares.worker_waited, shares.control, shares.others) >= 0
