# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of shell scripts that run in dom0 and in guests."""

# With the place in the kernel where each one waits.
PROCESSES = "ps axww -o pid,ppid,stat,wchan:24,time,args"


def until(condition: str, seconds: int = 60) -> str:
    """A shell script that waits for a condition; it fails after so long at the least."""
    turns = seconds * 10
    return f"turns=0; until {condition}; do turns=$((turns + 1)); [ $turns -lt {turns} ] || exit 1; sleep 0.1; done"
