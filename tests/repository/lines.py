# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.repository.lines`: no line of source, configuration or prose is longer than 120 characters."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.repository.files import REPOSITORY, files

LONGEST = 120
SUFFIXES = {".c", ".cfg", ".conf", ".css", ".h", ".in", ".md", ".py", ".service", ".sh", ".toml", ".yaml", ".yml"}
NAMES = {"CMakeLists.txt", "Kbuild", "Makefile", "run", "set-target", "shadowvq"}
# One node is one entry, and its description one row of the protocol page, which is made from it.
LISTS = {"xenstore_schema/nodes.yaml", "docs/protocol.md"}
PRAGMA = re.compile(r"  # (type: ignore|noqa)\S*$")


def counted(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that the rule is for, with their numbers: not rows of tables, and in prose no examples."""
    prose, example = path.suffix in {".md", ".in"}, False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = prose and line.lstrip().startswith("```")
        example ^= fence
        # Linux, coding-style.rst: a message to the user is never broken, so that one can search for it
        message = "module" in path.parts and path.suffix == ".c" and '"' in line
        if not (message or (prose and (example or fence or line.startswith(("|", "  |"))))):
            yield number, PRAGMA.sub("", line)


def too_long(root: Path = REPOSITORY) -> list[str]:
    """A sentence for each line that is too long."""
    c_is_formatted = (root / ".clang-format").exists()
    found = []
    for path in files(root):
        name = str(path.relative_to(root))
        if (path.suffix not in SUFFIXES and path.name not in NAMES) or name in LISTS or path.name == "LICENSE":
            continue
        if (path.suffix in {".c", ".h"} or path.name == "CMakeLists.txt") and not c_is_formatted:
            continue
        found += [f"{name}:{at}: {len(line)} characters" for at, line in counted(path) if len(line) > LONGEST]
    return found


def main() -> int:
    """Says where, and returns 1 if there are any."""
    found = too_long()
    sys.stderr.writelines(f"{sentence}, at most {LONGEST}\n" for sentence in found)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
