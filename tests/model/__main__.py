# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells how a mistake comes to break the rule: `python -m tests.model closed_although_held`."""

import sys

from tests.model.life import Life
from tests.model.worlds import SHOWN, WORLDS, with_fault


def main(arguments: list[str]) -> int:
    """Without a mistake's name it tells which there are."""
    if len(arguments) != 1 or arguments[0] not in SHOWN:
        print("usage: python -m tests.model MISTAKE, where MISTAKE is one of", ", ".join(SHOWN), file=sys.stderr)
        return 2
    print(Life(WORLDS[SHOWN[arguments[0]].world], with_fault(arguments[0])).explore().finding)
    return 0


sys.exit(main(sys.argv[1:]))
