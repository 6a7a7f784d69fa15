# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that give guests their declared disks."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import click

from xen_shadowvq import apply as applying
from xen_shadowvq import apply_plan, log
from xen_shadowvq.apply import Outcome
from xen_shadowvq.cli_options import json_option, log_level_option, sim_option
from xen_shadowvq.dead_guests import let_the_dead_go
from xen_shadowvq.declarations import DIRECTORY, Declarations, read_directory
from xen_shadowvq.dom0 import Dom0, with_name
from xen_shadowvq.errors import ConfigError, ShadowVQError
from xen_shadowvq.guest_service import GuestService
from xen_shadowvq.mediator_domain import DomainMaker, NoToolstack, Xl
from xen_shadowvq.output import say, say_json
from xen_shadowvq.parameters import Seconds
from xen_shadowvq.program import REFUSED

AT_ONCE_MAX = 16
WAITS = 1  # exit status
WAIT_S = 30.0

directory_option = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=DIRECTORY,
    show_default=True,
    help="Directory of the declarations: NAME.yaml for the guest NAME.",
)


def maker_for(sim_directory: Path | None) -> DomainMaker:
    """Returns what makes mediators' domains."""
    return NoToolstack() if sim_directory else Xl()


@click.command("apply", short_help="Attach and detach until guests have the disks declared for them.")
@sim_option
@directory_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--timeout", "timeout_s", type=Seconds(), default=WAIT_S, show_default=True, help="Seconds per step.")
@click.argument("names", metavar="[GUEST]...", nargs=-1)
@json_option
def apply(
    sim_directory: Path | None, directory: Path, dry_run: bool, timeout_s: float, names: tuple[str, ...], as_json: bool
) -> None:
    """Attach and detach disks until each GUEST, or every guest, has those that are declared for it.

    Disks attached by hand are left alone. Exit status 0: all is as declared (a guest that does not run is no error). 1:
    something has to wait, and the output says what. 2: a file is invalid; its guest keeps what it has, and the others
    go on.
    """
    declarations = read_directory(directory)
    with Dom0(sim_directory) as dom0:
        seen = applying.look(dom0)
        known = apply_plan.names(declarations.guests, seen)
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(
                *(f"{directory / name}.yaml: no such file, and the guest has no declared disk" for name in unknown)
            )
        chosen = [name for name in known if not names or name in names]

        if not dry_run:
            let_the_dead_go(dom0, seen)

        def one(name: str) -> list[Outcome]:
            return _one(dom0, name, declarations, maker_for(sim_directory), timeout_s, dry_run)

        with ThreadPoolExecutor(AT_ONCE_MAX) as pool:  # a detach that hangs holds up no other guest
            outcomes = [outcome for found in pool.map(one, chosen) for outcome in found]
    waits = not dry_run and any(one.result == "waits" for one in outcomes)
    status = REFUSED if declarations.problems else WAITS if waits else 0
    _show(outcomes, declarations.problems, status, dry_run=dry_run, as_json=as_json)
    sys.exit(status)


def _one(
    dom0: Dom0, name: str, declarations: Declarations, maker: DomainMaker, timeout_s: float, dry_run: bool
) -> list[Outcome]:
    """Does what there is to do for one guest, or only says what that would be."""
    declared = declarations.guests
    try:
        if dry_run:
            seen = applying.look(dom0)
            steps = apply_plan.plan_guest(name, declared, seen)
            return (
                list(applying.summary(name, declared, seen, [], []))
                if not steps
                else [Outcome.of(step) for step in steps]
            )
        outcomes = applying.apply_guest(dom0, name, declared, maker, timeout_s)
        left = applying.settle(dom0, name, declared, timeout_s)
        return list(applying.summary(name, declared, applying.look(dom0), outcomes, left))
    except ShadowVQError as error:
        return [Outcome(name, None, None, "waits", str(error))]


def _show(outcomes: list[Outcome], problems: Iterable[str], status: int, *, dry_run: bool, as_json: bool) -> None:
    for problem in problems:
        say(f"shadowvq: {problem}", err=True)
    if as_json:
        found = [asdict(one) for one in outcomes]
        say_json({"guests": found, "problems": list(problems), "dry_run": dry_run, "exit_status": status})
        return
    if not outcomes:
        say("nothing is declared")
    rows = [_row(one, dry_run) for one in outcomes]
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    for *columns, reason in rows:
        say("  ".join([*(text.ljust(width) for text, width in zip(columns, widths, strict=True)), reason]).rstrip())


def _row(one: Outcome, dry_run: bool) -> tuple[str, str, str, str]:
    guest = one.guest if one.domid is None else with_name(one.domid, one.guest)
    device = "" if one.device is None else f"device {one.device}"
    acts = {"attached", "detached", "attached anew"}
    would = {one: f"would be {one}" for one in acts} | {
        "mediator made": "a mediator would be made",
        "waits": "would wait",
    }
    return guest, device, would.get(one.result, one.result) if dry_run else one.result, one.reason


@click.command("guests", short_help="Run dom0's service for declared disks.")
@sim_option
@directory_option
@log_level_option
def guests(sim_directory: Path | None, directory: Path, log_level: log.Level) -> None:
    """Run dom0's service that attaches declared disks whenever their guests run.

    It does what `ctl apply` does whenever a domain comes or goes or a file changes, on SIGHUP, and every few seconds.
    SIGTERM ends it at once, and every disk stays as it is.
    """
    log.configure(log_level, "auto")
    with Dom0(sim_directory) as dom0:
        service = GuestService(dom0, directory, maker_for(sim_directory))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: service.stop())
        signal.signal(signal.SIGHUP, lambda *_: service.reread())
        service.run()
