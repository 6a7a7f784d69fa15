# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m xenstore_schema.generate [--check]`: makes, or checks, every file that comes from nodes.yaml."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from xenstore_schema import model, render

PACKAGE = Path(__file__).parent
TEMPLATE = PACKAGE / "protocol.md.in"


def outputs(root: Path = PACKAGE.parent) -> Mapping[Path, str]:
    """Every generated file below the project's `root`, with the text that it should have."""
    schema = model.load()
    return {
        root / "xenstore_schema" / "nodes.py": render.python(schema),
        root / "xenstore_schema" / "include" / "svq_nodes.h": render.c_header(schema),
        root / "docs" / "protocol.md": render.markdown(schema, TEMPLATE.read_text(encoding="utf-8")),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the files that differ; with --check it writes none, names them and returns 1."""
    parser = argparse.ArgumentParser(prog="python -m xenstore_schema.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only tell which files are out of date")
    check = parser.parse_args(arguments).check
    stale = 0
    for path, text in outputs().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if not check:
            path.write_text(text, encoding="utf-8")
        sys.stderr.write(f"{'out of date' if check else 'written'}: {path}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
