# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from xen_shadowvq.parameters import Domain, Seconds

ANSWER_S = 10.0

config_option = click.option(
    "--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), help="YAML configuration file."
)
sim_option = click.option(
    "--sim",
    "sim_directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Use the embedded machine whose sockets are in DIRECTORY, instead of real Xen.",
)
domid_option = click.option(
    "--domid", type=click.IntRange(0, 32751), default=0, show_default=True, help="With --sim: the id of our own domain."
)
timeout_option = click.option(
    "--timeout", "timeout_s", type=Seconds(), default=ANSWER_S, show_default=True, help="Seconds to wait."
)
log_level_option = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Log this and what is worse.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, for machines.")


def output_option(folder: str) -> Callable[..., Any]:
    """--output of a command that writes files, by default into `folder`."""
    return click.option(
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(folder),
        show_default=True,
        help="Folder of all that it writes.",
    )


def names_a_device(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the arguments that name a device, and --sim, which says where to look for it."""
    return sim_option(click.argument("frontend", type=Domain())(click.argument("device", type=int)(command)))
