# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmarks: what the data plane costs against a relay without checks, how that grows, and what idling costs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from xen_shadowvq import log
from xen_shadowvq.bench import idle, report, samples
from xen_shadowvq.bench.delivery import deliver
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.native import native_folder

__all__ = ["run_bench"]

IDLE_WINDOWS = 5

_TITLES = {
    "engine": "floor, one page, virtio-blk",
    "curves": "by segments, memory, past requests",
    "throughput": "depth 128 on two cores",
    "sleeping": "depth 1, all asleep",
}


def run_bench(out: Path, rounds: int, json_only: bool) -> int:
    """
    Runs all benchmarks, writes `out`/engine.json and `out`/engine.png, and prints tables, or only the JSON.

    Returns 0 also when a goal is missed: a benchmark is not a test.

    Raises:
        BenchmarkFailed: a case did not run to its end; no file is written then.
        ConfigError: matplotlib is missing.
    """
    try:
        from xen_shadowvq.bench import plot  # noqa: PLC0415 - an optional dependency, and slow to load
    except ImportError as error:
        raise ConfigError(f"{error}; the plots need matplotlib: pip install 'xen-shadowvq[bench]'") from error
    log.configure("warning", "auto", sys.stderr)
    console = Console(stderr=json_only)
    facts = report.machine_facts()
    measured: samples.Samples = {}
    program = native_folder() / "svq_bench"
    with _progress(console) as step:
        for case in samples.CASES:
            measured |= samples.run_case(program, case, rounds, step(_TITLES[case], rounds))
        cost = idle.measure(IDLE_WINDOWS, step(f"{idle.FRONTENDS * idle.DEVICES_EACH} idle devices", IDLE_WINDOWS))
    made = report.make(measured, cost, rounds, facts)
    deliver(
        out,
        "engine",
        report.as_json(made),
        lambda path: plot.draw(made, path),
        lambda: report.show(made, console),
        json_only=json_only,
    )
    return 0


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """A bar for each case: what is yielded begins one and returns what moves it on by a round."""
    columns = (TextColumn("{task.description:<36}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:

        def step(title: str, total: int) -> Callable[[], None]:
            task = progress.add_task(title, total=total)
            return lambda: progress.advance(task)

        yield step
