# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures what isolation costs on Xen, counted in instructions, and writes the report (`make report`)."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.harness import MachineSpec, boot
from tests.harness.cache import cache_folder
from tests.harness.errors import HarnessError, MissingTool
from tests.harness.packages import REPOSITORY
from tests.harness.qemu import COUNT_INSTRUCTIONS, QEMU
from tests.harness.tools import find_tool, run_tool
from tests.xen.bench import figures, lab, measure, plain
from tests.xen.bench.jobs import JOBS, Measured
from tests.xen.bench.ways import SWIOTLB, WAYS

OUTPUT = REPOSITORY / "docs" / "report"
WORK = REPOSITORY / "build" / "report"
ROUNDS, QUICK_ROUNDS = 5, 3
# PVH guests die in their first second under Xen on newer ones: a fault in their table of intercepts (seen with 10 and
# 11; what lies between was not tried).
QEMU_WORKS = (7, 2)
MEMORY_MIB = 4096


def qemu_version(said: str) -> tuple[int, ...]:
    """The version in what QEMU says of itself; empty if there is none."""
    found = re.search(r"version (\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else ()


def check_qemu() -> str:
    """QEMU's version, in its own words. MissingTool: there is none, or one that cannot run this."""
    said = run_tool([find_tool(QEMU), "--version"]).splitlines()[0]
    if qemu_version(said) != QEMU_WORKS:
        raise MissingTool(
            f"{said}: the report needs QEMU {QEMU_WORKS[0]}.{QEMU_WORKS[1]}, that of Debian 12. PVH guests do not run "
            "under Xen in QEMU 10 and 11, and with another version the figures would not compare."
        )
    return said


def check_plots() -> None:
    """MissingTool: the plots cannot be drawn, which is better known before than after an hour."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingTool(f"{error}; the plots need matplotlib: pip install 'xen-shadowvq[bench]'") from error
    mpl.use("Agg")


def _measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from tests.xen.payload import build_machine_images

    qemu = check_qemu()
    columns = (TextColumn("{task.description:<44}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="svq-report-") as work,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        passes = len({way.fixed for way in WAYS if way.name in options.ways})
        total = 3 + 2 * len(options.ways) + passes * options.rounds * len(options.jobs)
        task = progress.add_task("making the machine", total=total)

        def step(text: str) -> None:
            progress.update(task, description=text, advance=1)
            if not console.is_terminal:
                console.print(text)

        images = build_machine_images(
            Path(work), extra=lambda tree: {plain.PROGRAM: plain.compile_plain(tree, Path(work) / plain.PROGRAM)}
        )
        step("booting Xen and dom0")
        spec = MachineSpec(memory_mib=MEMORY_MIB, count_instructions=True, xen_arguments=lab.XEN_ARGUMENTS)
        with boot(images, spec, WORK / "logs", cache=cache_folder()) as machine:
            try:
                step("booting the guest, the mediator, the backend")
                with lab.running(machine, bouncing=SWIOTLB in options.ways) as running:
                    known = {"qemu": qemu, "clock": " ".join(COUNT_INSTRUCTIONS)} | measure.facts(machine, running)
                    return _in_lab(running, known, options, step)
            except HarnessError:
                machine.collect_logs(WORK / "failed")
                raise


def _in_lab(
    running: lab.Lab, known: dict[str, str], options: argparse.Namespace, step: Callable[[str], None]
) -> dict[str, Any]:
    """All rounds; what is known after each is kept, in case that a later one fails."""
    rounds: list[dict[str, dict[str, Measured]]] = [{} for _ in range(options.rounds)]
    counts: dict[str, figures.Counts] = {}
    data: dict[str, Any] = {}
    disks = measure.Disks()
    for fixed in (False, True):
        ways = [way.name for way in WAYS if way.name in options.ways and way.fixed is fixed]
        if ways and fixed:
            lab.map_memory_once(running, disks.mediated)
        disks = measure.attach_all(running, ways, step)
        counts |= measure.count(disks, step)
        for number in range(options.rounds if ways else 0):
            for job in options.jobs:
                step(f"round {number + 1}{', memory fixed' if fixed else ''}: {job}")
                rounds[number].setdefault(job, {}).update(measure.measure(disks, job, number))
            done = [one for one in rounds if one]
            data = figures.as_json(done, counts, known, {}, quick=options.quick)
            write_json(data, WORK / "data.json")
    return data


def write_json(data: dict[str, Any], path: Path) -> None:
    """Writes it as people can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.xen.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds in place of {ROUNDS}")
    parser.add_argument("--rounds", type=int, help="another number of rounds")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the report (default: docs/report)")
    parser.add_argument("--ways", default=",".join(way.name for way in WAYS if not way.state), help="(%(default)s)")
    parser.add_argument("--jobs", default=",".join(JOBS), help="(%(default)s)")
    parser.add_argument("--from-data", action="store_true", help="write the report anew from its data.json")
    return parser


def _options() -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one round")
    there = {"ways": [way.name for way in WAYS if not way.state], "jobs": list(JOBS)}
    for name, known in there.items():
        chosen = getattr(options, name).split(",")
        if unknown := [one for one in chosen if one not in known]:
            parser.error(f"--{name}: {', '.join(unknown)}: those that can be measured are {', '.join(known)}")
        setattr(options, name, chosen)
    return options


def main() -> int:
    """Runs the command line; 1 if there is no report."""
    options, console = _options(), Console()
    try:
        check_plots()
        from tests.xen.bench import render

        if options.from_data:
            data = json.loads((options.output / "data.json").read_text())
        else:
            data = _measure(options, console)
            write_json(data, options.output / "data.json")
        render.write(data, options.output)
    except (HarnessError, OSError, ValueError, subprocess.SubprocessError) as error:
        console.print(f"[bold red]{type(error).__name__}[/]:", end=" ")
        console.print(str(error), markup=False, highlight=False)
        return 1
    console.print(f"report: {options.output / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
