# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.repository.coverage BUILD`: one line for each folder of C (gcov) and of Python that tests reached.

BUILD is a folder with what C built with --coverage has counted; Python's counts are where pytest-cov leaves them. It
only tells: no figure makes it fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import coverage

from tests.repository.files import REPOSITORY

AT_ONCE = 64  # files that one gcov is given
Reached = dict[Path, dict[int, bool]]  # whether each line of a file that has code was run


def of_c(build: Path) -> Reached:
    """By every program of a build: a line is reached if any of them ran it."""
    counted = [str(path.resolve()) for path in build.rglob("*.gcda")]
    reached: Reached = defaultdict(dict)
    for first in range(0, len(counted), AT_ONCE):
        command = ["gcov", "--json-format", "--stdout", *counted[first : first + AT_ONCE]]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=build)
        for document in map(json.loads, filter(None, done.stdout.splitlines())):
            for file in document["files"]:
                lines = reached[(Path(document["current_working_directory"]) / file["file"]).resolve()]
                for line in file["lines"]:
                    number = line["line_number"]
                    lines[number] = lines.get(number, False) or line["count"] > 0
    return reached


def of_python() -> Reached:
    """By the last run of pytest with --cov, as pyproject.toml says what is counted."""
    counted = coverage.Coverage(config_file=str(REPOSITORY / "pyproject.toml"))
    counted.load()
    reached: Reached = {}
    for name in counted.get_data().measured_files():
        _, statements, _, missing, _ = counted.analysis2(name)
        reached[Path(name)] = {line: line not in set(missing) for line in statements}
    return reached


def rows(language: str, reached: Reached) -> Iterator[str]:
    """A line of the table for each folder."""
    folders: dict[Path, list[bool]] = defaultdict(list)
    for path, lines in reached.items():
        parts = path.relative_to(REPOSITORY).parts if path.is_relative_to(REPOSITORY) else ("tests",)
        if "tests" not in parts and not parts[0].startswith("."):
            folders[path.parent.relative_to(REPOSITORY)] += lines.values()
    for folder, lines_of_folder in sorted(folders.items()):
        if lines_of_folder:
            share = sum(lines_of_folder) / len(lines_of_folder)
            yield f"{language:8}{folder!s:32}{share:7.1%} of {len(lines_of_folder)} lines"


def tell(language: str, counts: Iterable[str]) -> None:
    """Prints them, or that there are none."""
    found = False
    for row in counts:
        found = True
        sys.stdout.write(f"{row}\n")
    if not found:
        sys.stdout.write(f"{language:8}nothing was counted\n")


def main() -> int:
    """Prints the table."""
    sys.stdout.write("coverage of the quicker tests, by lines:\n")
    for language, measure in (("C", lambda: of_c(Path(sys.argv[1]))), ("Python", of_python)):
        try:
            tell(language, rows(language, measure()))  # type: ignore[no-untyped-call]
        except (OSError, subprocess.CalledProcessError, coverage.CoverageException) as error:
            sys.stdout.write(f"{language:8}not counted: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
