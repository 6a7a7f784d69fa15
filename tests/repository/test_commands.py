# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command of CONTRIBUTING.md, and its exercise, as written. Some build: nothing else runs beside them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.repository import contributing
from tests.repository.files import REPOSITORY

pytestmark = [pytest.mark.commands, pytest.mark.timeout(1200)]

RUN_THIS = {"before-a-commit"}  # these tests are run by it, or by what it is a part of
RUN_BY_TEST_XEN = {"one-xen-test", "one-module-test"}
EXERCISE = {"exercise-build", "exercise-without-the-check", "exercise-with-the-check"}
QUICK = {"generate", "one-c-test", "one-python-test"}
SLOW = {
    "set-up",
    "one-race-test",
    "one-fuzz-run",
    "one-model-test",
    "one-system-test",
    "gdb-on-a-test",
    "gdb-under-python",
}
SAYS = {
    "one-c-test": "ok ",
    "gdb-on-a-test": "indirect_negotiated = ",
    "gdb-under-python": "svq_fault_set (q=",
}
# What the C tests are built from.
SOURCES = ("c_helpers", "dom0_backend", "domU_frontend", "xenstore_schema")


def run(script: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """Runs a block in a folder, which has all that the page has set up before."""
    return subprocess.run(["/bin/sh", "-c", script], cwd=cwd, capture_output=True, text=True, check=False)


def test_quick_no_block_is_left_out() -> None:
    """Each block of commands is run here, runs these tests, or names tests that `make test` runs."""
    assert set(contributing.commands()) == RUN_THIS | RUN_BY_TEST_XEN | EXERCISE | QUICK | SLOW


@pytest.mark.parametrize("name", sorted(QUICK))
def test_quick_commands_run(name: str) -> None:
    """Commands that take seconds."""
    check(name)


@pytest.mark.parametrize("name", sorted(SLOW))
def test_commands_run(name: str) -> None:
    """Commands that build, or need the sanitizers, clang or gdb."""
    check(name)


def check(name: str) -> None:
    """Runs a block to its end; it says what the page says that it shows."""
    done = run(contributing.commands()[name])
    assert done.returncode == 0, done.stdout + done.stderr
    assert SAYS.get(name, "") in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(RUN_BY_TEST_XEN))
def test_quick_commands_for_xen_choose_tests(name: str) -> None:
    """Commands that choose tests which `make test-xen` and `make test-module` run choose some."""
    (command,) = (line.partition("#")[0] for line in contributing.commands()[name].splitlines()[1:])
    done = run(f"{command} --collect-only")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "::test_" in done.stdout


def test_the_exercise_works_as_written(tmp_path: Path) -> None:
    """A new check of the chain walk: without it its hostile input gets through, with it both programs of the tests are
    content, and the mutation shows that it is needed. (In a copy; what the page does to Python's model goes in.)"""
    for name in SOURCES:
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "native"))
    (tmp_path / "tests").mkdir()
    shutil.copytree(REPOSITORY / "tests" / "engine", tmp_path / "tests" / "engine")
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    blocks, edits = contributing.commands(), contributing.insertions()
    check_itself = next(number for number, edit in enumerate(edits) if edit.file == "chain.c")
    # As `make build-c` does, without the rest of that build.
    cmake = f".venv/bin/cmake -G Ninja -DCMAKE_MAKE_PROGRAM={REPOSITORY}/.venv/bin/ninja -S c_helpers -B build/asan"
    options = "-DSVQ_TESTS=ON -DSVQ_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug"
    done = run(f"{cmake} {options} -DSVQ_SYSROOT={REPOSITORY}/.venv/sysroot", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    for edit in edits[:check_itself]:
        edit.apply(tmp_path)
    done = run(blocks["exercise-build"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(blocks["exercise-without-the-check"], tmp_path)
    assert done.returncode != 0
    assert "unknown_flag (SVQ_E_UNKNOWN_FLAG): status 0, code 0" in done.stdout

    for edit in edits[check_itself:]:
        edit.apply(tmp_path)
    done = run(blocks["exercise-build"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(blocks["exercise-with-the-check"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# without SVQ_E_UNKNOWN_FLAG, unknown_flag: accepted" in done.stdout
