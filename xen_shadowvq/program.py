# SPDX-License-Identifier: GPL-2.0-or-later
"""How the program ends: mistakes that the operator can mend give a line each and exit status 2, not a traceback."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import click

from xen_shadowvq.errors import ConfigError, ShadowVQError
from xen_shadowvq.output import hold_standard_descriptors, say, say_block, say_json, tolerate_any_text

REFUSED = 2  # exit status: the operator has to mend the request, or the system
DEFECT = 1


class Program(click.Group):
    """
    The outermost command. Whatever fails below it ends here: lines on standard error, and with --json an object with
    `error` and `exit_status` on standard output, also where the command line itself is wrong.
    """

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """As click's; it never returns."""
        hold_standard_descriptors()
        tolerate_any_text()
        given = list(sys.argv[1:] if args is None else args)
        as_json = "--json" in given[: given.index("--") if "--" in given else None]
        try:
            answer = super().main(given, *rest, **{**options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _fail([_usage(error)], error.exit_code, as_json)
        except click.Abort:
            _fail(["interrupted"], DEFECT, as_json)
        except ShadowVQError as error:
            _fail(error.problems if isinstance(error, ConfigError) else [str(error)], REFUSED, as_json)
        except Exception as error:  # a defect of ours
            say_block(traceback.format_exc())
            _fail([f"{type(error).__name__}: {error}"], DEFECT, as_json)
        sys.exit(answer if isinstance(answer, int) else 0)


def _usage(error: click.ClickException) -> str:
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return error.format_message()
    return f"{error.format_message().rstrip('.')}; see `{error.ctx.command_path} --help`"


def _fail(untrusted_problems: Iterable[str], status: int, as_json: bool) -> NoReturn:
    problems = list(untrusted_problems)
    for problem in problems:
        say(f"shadowvq: {problem}", err=True)
    if as_json:
        with contextlib.suppress(ConfigError):  # standard output may be the very trouble
            say_json({"error": "; ".join(problems), "exit_status": status})
    sys.exit(status)
