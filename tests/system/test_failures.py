# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that fail, as programs meet them: an object on standard output."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from xen_shadowvq.cli import main

from .command import REPOSITORY, Done, ask, command, run

SERVICES = {"mediator", "backend", "guests"}  # they run until they are stopped, and log JSON


def commands(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of the program, with its words."""
    for name, one in group.commands.items():
        if isinstance(one, click.Group):
            yield from commands(one, (*above, name))
        else:
            yield (*above, name), one


def failure(done: Done) -> str:
    """The error in the one object on standard output, which is what standard error has for people."""
    found = json.loads(done.out)
    assert found == {"error": found["error"], "exit_status": done.status} and done.status == 2
    lines = [line.removeprefix("shadowvq: ") for line in done.err.splitlines() if line.startswith("shadowvq: ")]
    assert "; ".join(lines) == found["error"]
    return str(found["error"])


@pytest.mark.parametrize("words", [words for words, _ in commands(main) if words[0] not in SERVICES], ids=" ".join)
def test_every_command_says_as_json_what_is_wrong_with_its_line(words: tuple[str, ...]) -> None:
    """Every command has --json, and with it a wrong command line ends in an object with `error` and the status."""
    error = failure(ask(*words, "--json", "--frob"))
    assert "--frob" in error and error.endswith(f"; see `shadowvq {' '.join(words)} --help`")


def test_a_request_that_is_refused_says_so_as_json(tmp_path: Path) -> None:
    """What cannot be done ends in the same object, with every mistake in it; without --json, or with it behind `--`,
    nothing is on standard output."""
    assert str(tmp_path) in failure(ask("ctl", "list", f"--sim={tmp_path}", "--json"))
    assert str(tmp_path) in failure(ask("ctl", "detach", f"--sim={tmp_path}", "3", "0", "--json"))
    bad = tmp_path / "bad.yaml"
    bad.write_text("limit: {}\nworkers: 5\n")
    assert failure(ask("check-config", "--json", str(bad))).count(f"{bad}:") == 2
    assert failure(run("demo", "--json", f"--output={tmp_path}", f"--image={tmp_path}")).startswith(str(tmp_path))
    assert (done := ask("check-config", str(bad))).out == "" and done.status == 2
    assert ask("check-config", "--", "--json").out == ""


def test_a_defect_says_so_as_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also a failure that nobody foresaw leaves the object, with status 1; the traceback is not lost."""

    def broken(_: Path) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("xen_shadowvq.cli.configuration.load", broken)
    done = ask("check-config", "--json", str(tmp_path / "some.yaml"))
    assert json.loads(done.out) == {"error": "RuntimeError: unforeseen", "exit_status": done.status}
    assert done.status == 1 and "  Traceback" in done.err


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    """On a full disk a command that has something to say fails with one line; one that fails anyway keeps its status,
    also where nobody can be told why."""
    good = tmp_path / "good.yaml"
    good.write_text("{}\n")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("check-config", str(good)),
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr == "shadowvq: standard output cannot be written: No space left on device\n"
        missing = command("check-config", "--json", str(tmp_path / "missing.yaml"))
        assert subprocess.run(missing, stdout=full, stderr=full, cwd=REPOSITORY, check=False).returncode == 2
