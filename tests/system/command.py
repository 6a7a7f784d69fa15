# SPDX-License-Identifier: GPL-2.0-or-later
"""The program `shadowvq`: as a process, or, for what only asks and answers, in this one, which is much faster."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner

from xen_shadowvq.cli import main

if TYPE_CHECKING:
    from .world import World

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 200.0


@dataclass(frozen=True)
class Done:
    """How it ended, and what it said."""

    status: int
    out: str
    err: str


def command(*arguments: str) -> list[str]:
    """The command line of a process."""
    return [sys.executable, "-m", "xen_shadowvq", *arguments]


def run(*arguments: str, timeout_s: float = TIMEOUT_S, cwd: Path = REPOSITORY, **environment: str) -> Done:
    """As a process, to its end, with plain and wide output."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True, text=True, timeout=timeout_s, cwd=cwd, check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment},
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def ask(*arguments: str) -> Done:
    """In this process. Not for services and the demo, which set up logging for themselves."""
    done = CliRunner().invoke(main, list(arguments), prog_name="shadowvq", terminal_width=200)
    return Done(done.exit_code, done.stdout, done.stderr)


def ctl(world: World, verb: str, *arguments: str) -> Done:
    """`shadowvq ctl` in this process."""
    return ask("ctl", verb, f"--sim={world.sim}", *arguments)
