# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the processes with locks on an image, as far as this process may look at them; for messages only."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def holders(image: Path) -> list[str]:
    """Other processes with a lock on the file, as `process 77 (qemu-system-x86)`."""
    try:
        found = image.stat()
    except OSError:
        return []
    wanted = f" {os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino} "
    processes = (one for one in Path("/proc").iterdir() if one.name.isdecimal() and int(one.name) != os.getpid())
    return [f"process {one.name} ({_name(one)})" for one in processes if _has_lock(one, wanted)]


def _has_lock(process: Path, wanted: str) -> bool:
    """
    Whether a lock of one of its files names the wanted one. The files themselves may hang, so they are not touched.
    """
    with suppress(OSError):  # it is not ours to look at, or has ended
        for file in (process / "fdinfo").iterdir():
            with suppress(OSError):
                lines = file.read_text().splitlines()
                if any(line.startswith("lock:") and wanted in line for line in lines):
                    return True
    return False


def _name(process: Path) -> str:
    try:
        return ascii((process / "comm").read_text().strip())[1:-1]
    except OSError:
        return "?"
