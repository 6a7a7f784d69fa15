# SPDX-License-Identifier: GPL-2.0-or-later
"""What a frontend that does its worst costs another one on the same worker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from xen_shadowvq import log
from xen_shadowvq.bench.delivery import deliver
from xen_shadowvq.bench.report import machine_facts
from xen_shadowvq.errors import ConfigError

__all__ = ["run_fairness"]


def run_fairness(out: Path, rounds: int, names: Sequence[str], json_only: bool) -> int:
    """
    Measures the attacks of these names (none: all), writes `out`/fairness.json and `out`/fairness.png, and prints a
    table, or only the JSON.

    Returns 0 also when a goal is missed: a benchmark is not a test.

    Raises:
        BenchmarkFailed, ChildFailed: a process did not run to its end; no file is written then.
        ConfigError: matplotlib is missing.
    """
    try:
        from xen_shadowvq.bench.fairness import plot, report  # noqa: PLC0415 - optional, and slow to load
        from xen_shadowvq.bench.fairness import rounds as order  # noqa: PLC0415
        from xen_shadowvq.bench.fairness.attacks import ATTACKS  # noqa: PLC0415
        from xen_shadowvq.bench.fairness.stage import open_stage  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"{error}; the plots need matplotlib: pip install 'xen-shadowvq[bench]'") from error
    log.configure("warning", "auto", sys.stderr)
    console = Console(stderr=json_only)
    facts = machine_facts()
    if unknown := [name for name in names if name not in {attack.name for attack in ATTACKS}]:
        raise ConfigError(
            f"there is no attack {unknown[0]!r}; the attacks are {', '.join(attack.name for attack in ATTACKS)}"
        )
    chosen = [attack.name for attack in ATTACKS if not names or attack.name in names]
    with console.status("starting") as status, open_stage() as stage:
        measured = order.measure(stage, chosen, rounds, lambda beside: status.update(f"beside: {beside}"))
    made = report.make(measured, rounds, stage.precedence, facts)
    deliver(
        out,
        "fairness",
        report.as_json(made),
        lambda path: plot.draw(made, path),
        lambda: report.show(made, console),
        json_only=json_only,
    )
    return 0
