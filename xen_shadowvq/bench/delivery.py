# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a finished benchmark's figures go: a JSON file, a plot beside it, and a table or the JSON for whoever waits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xen_shadowvq.output import say


def deliver(
    out: Path,
    name: str,
    figures: dict[str, Any],
    draw: Callable[[Path], None],
    show: Callable[[], None],
    *,
    json_only: bool,
) -> None:
    """Writes `out`/`name`.json, has `out`/`name`.png drawn, and has the tables shown, or prints only the JSON."""
    text = json.dumps(figures, indent=2)
    table, picture = out / f"{name}.json", out / f"{name}.png"
    out.mkdir(parents=True, exist_ok=True)
    table.write_text(text + "\n")
    draw(picture)
    if json_only:
        sys.stdout.write(text + "\n")
    else:
        show()
        say(f"also in {table} and {picture}")
