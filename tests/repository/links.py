# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.repository.links`: each relative link in a document leads to a file, and its anchor to a heading."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.repository.files import REPOSITORY, files

FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
ELSEWHERE = ("http://", "https://", "mailto:")


@cache
def anchors(page: Path) -> frozenset[str]:
    """What may follow the # of a link to a page, by the rules of the sites that show it."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        again = found.setdefault(slug, 0)
        found[slug] += 1
        if again:
            found[f"{slug}-{again}"] = 1
    return frozenset(found)


def broken(page: Path, root: Path) -> Iterator[str]:
    """A sentence for each link of a page that leads nowhere."""
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(ELSEWHERE):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            yield f"{page.relative_to(root)}: {target}: there is no such file"
        elif anchor and (path.suffix != ".md" or anchor not in anchors(path)):
            yield f"{page.relative_to(root)}: {target}: there is no such heading"


def all_broken(root: Path = REPOSITORY) -> list[str]:
    """Those of every document."""
    return [sentence for page in files(root) if page.suffix == ".md" for sentence in broken(page, root)]


def main() -> int:
    """Says where, and returns 1 if there are any."""
    found = all_broken()
    sys.stderr.writelines(f"{sentence}\n" for sentence in found)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
