# SPDX-License-Identifier: GPL-2.0-or-later
"""What CONTRIBUTING.md has its reader do: blocks of commands by name, and the insertions of its exercise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.repository.files import REPOSITORY, files

PAGE = REPOSITORY / "CONTRIBUTING.md"
# Commands are fenced with ```sh NAME, an insertion with ```LANGUAGE FILE after TEXT.
BLOCK = re.compile(r"^```(\w+) (.+?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"(\S+) after (.+)")


@dataclass(frozen=True)
class Insertion:
    """Lines that go into a file, after the first of its lines that has a text."""

    file: str
    after: str
    lines: str

    def apply(self, root: Path) -> None:
        """Does it, in the one file whose path ends so below `root`."""
        (path,) = (path for path in files(root) if path.as_posix().endswith(f"/{self.file}"))
        before = path.read_text(encoding="utf-8").splitlines(keepends=True)
        at = next(number for number, line in enumerate(before, 1) if self.after in line)
        path.write_text("".join([*before[:at], self.lines, *before[at:]]), encoding="utf-8")


@cache
def commands() -> dict[str, str]:
    """Every block of commands by its name, as a shell script that ends with the first command that fails."""
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return {what: f"set -e\n{text}" for language, what, text in blocks if language == "sh"}


@cache
def insertions() -> list[Insertion]:
    """Those of the exercise, in their order."""
    found = []
    for language, what, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language != "sh":
            place = PLACE.fullmatch(what)
            assert place is not None, what
            found.append(Insertion(place[1], place[2], text))
    return found
