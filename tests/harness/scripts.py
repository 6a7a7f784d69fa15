# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of shell scripts that run in dom0 and in guests."""


def until(condition: str, seconds: int = 60) -> str:
    """A shell script that waits for a condition; it fails after so long at the least."""
    turns = seconds * 10
    return f"turns=0; until {condition}; do turns=$((turns + 1)); [ $turns -lt {turns} ] || exit 1; sleep 0.1; done"
