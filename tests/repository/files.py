# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of the repository, as far as people write them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_OURS = {"build", "dist", "native", "__pycache__", "node_modules"}


def files(root: Path = REPOSITORY) -> Iterator[Path]:
    """All of them, also those that git does not know yet; nothing that is built, and no folder of a tool."""
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        hidden = {name for name in folders if name.startswith(".") and name not in (".github", ".ci")}
        folders[:] = sorted(set(folders) - NOT_OURS - hidden)
        yield from (here / name for name in sorted(names))
