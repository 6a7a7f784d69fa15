# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that try and measure the product on the embedded machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from xen_shadowvq import log
from xen_shadowvq.cli_options import json_option, output_option
from xen_shadowvq.output import say, say_json


def _wait_for_enter(directory: Path, frontend: str, device: int) -> None:
    say("the embedded machine stays up until you press Enter; from another terminal, try", err=True)
    program = sys.argv[0] if Path(sys.argv[0]).name == "shadowvq" else "shadowvq"
    for command in ("list", f"status {frontend} {device}", f"trace {frontend} {device}"):
        say(f"  {program} ctl {command} --sim {directory}", err=True)
    sys.stdin.readline()


@click.command("demo", short_help="Try the whole product on the embedded machine.")
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="A raw disk image; the demo works on a copy. Default: make one.",
)
@output_option("build/demo")
@click.option("--placement", type=click.Choice(["exact", "page", "copy"]), default="exact", show_default=True)
@click.option("--window", type=click.Choice(["direct", "dynamic"]), default="direct", show_default=True)
@click.option("--direct-io", is_flag=True, help="Bypass the page cache.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the random mix of requests.")
@click.option(
    "--keep", is_flag=True, help="Leave the machine up at the end, for `shadowvq ctl`, until Enter is pressed."
)
@json_option
def demo(
    image: Path | None, output: Path, placement: str, window: str, direct_io: bool, seed: int, keep: bool, as_json: bool
) -> None:
    """Run the whole product on the embedded machine, and attack it.

    Frontend, mediator and backend are three processes. A disk is read and written through shadow virtqueues, compared
    and checked; then the backend tries every page and every grant of the frontend. It needs neither Xen nor root.
    """
    from xen_shadowvq.demo import report as reports  # noqa: PLC0415 - only the demo needs all of the product
    from xen_shadowvq.demo import runner  # noqa: PLC0415
    from xen_shadowvq.demo.progress import progress  # noqa: PLC0415

    console = Console(stderr=as_json)
    log.configure("warning", "auto", sys.stderr)
    options = runner.Options(output, image, placement, window, direct_io, seed, _wait_for_enter if keep else None)
    with progress(console) as step:
        report = runner.run(options, step)
    reports.show(report, console)
    if as_json:
        say_json(report)
    else:
        say(f"also in {output / 'report.json'}")
    wrong = reports.failures(report)
    for text in wrong:
        say(f"check failed: {text}", color="red", err=True)
    sys.exit(1 if wrong else 0)


@click.command("bench", short_help="Measure the data plane on the embedded machine.")
@click.option("--rounds", type=click.IntRange(5), default=7, show_default=True, help="Samples of each figure.")
@output_option("build/bench")
@json_option
def bench(rounds: int, output: Path, as_json: bool) -> None:
    """Measure the data plane on the embedded machine: against a relay without checks, by size, at rest."""
    from xen_shadowvq.bench import run_bench  # noqa: PLC0415 - draws plots

    sys.exit(run_bench(output, rounds, as_json))


@click.command("bench-fairness", short_help="Measure what a hostile guest costs another one.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Comparisons for each attack.")
@click.option("--attack", "attacks", multiple=True, help="Run only this attack; may be repeated.")
@output_option("build/bench")
@json_option
def bench_fairness(rounds: int, attacks: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Measure what a hostile frontend costs another one on the same worker, on the embedded machine."""
    from xen_shadowvq.bench.fairness import run_fairness  # noqa: PLC0415 - draws plots

    sys.exit(run_fairness(output, rounds, attacks, as_json))
