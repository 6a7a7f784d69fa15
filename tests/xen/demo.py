# SPDX-License-Identifier: GPL-2.0-or-later
"""`make xen-demo`: boots Xen in QEMU, runs the main job in a stock Linux guest, attacks it, and shows what came out."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.harness import MachineSpec, boot
from tests.harness.cache import cache_folder
from tests.harness.errors import HarnessError
from tests.harness.packages import REPOSITORY
from tests.xen import report, topology
from tests.xen.payload import build_machine_images

OUTPUT = REPOSITORY / "build" / "xen-demo"
TOPOLOGIES = {"separate": topology.separate, "dom0": topology.together}


def run(names: list[str], console: Console) -> list[dict[str, Any]]:
    """Boots once and does the job in each topology."""
    reports = []
    with (
        tempfile.TemporaryDirectory(prefix="svq-xen-demo-") as work,
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        ) as progress,
    ):
        task = progress.add_task("starting", total=None)
        shown = ""

        def note(text: str) -> None:
            nonlocal task, shown
            if not console.is_terminal and text != shown:
                console.print(text)
            shown = text
            progress.stop_task(task)
            task = progress.add_task(text, total=None)

        note("making the machine (the first time: Debian's packages are downloaded into a cache)")
        images = build_machine_images(Path(work))
        note("booting Xen and dom0")
        with boot(images, MachineSpec(), OUTPUT / "logs", cache=cache_folder()) as machine:
            for name in names:
                note(f"starting the domains of topology {name}")
                with TOPOLOGIES[name](machine) as running:
                    reports.append(report.run(running, name, note))
            note("done")
    return reports


def main() -> int:
    """Runs the command line; 1 if anything did not come out as it must."""
    parser = argparse.ArgumentParser(prog="python -m tests.xen.demo", description=__doc__)
    parser.add_argument("--topology", choices=[*TOPOLOGIES, "both"], default="both", help="(default: %(default)s)")
    chosen = parser.parse_args().topology
    console = Console()
    try:
        reports = run(list(TOPOLOGIES) if chosen == "both" else [chosen], console)
    except HarnessError as error:
        console.print(f"[bold red]{type(error).__name__}[/]: {error}", markup=True, highlight=False)
        return 1
    report.write_json(reports, OUTPUT / "report.json")
    wrong = [text for one in reports for text in report.failures(one)]
    for one in reports:
        report.show(one, console)
    console.print(f"report: {(OUTPUT / 'report.json').relative_to(REPOSITORY)}")
    for text in wrong:
        console.print(f"[bold red]wrong:[/] {text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
