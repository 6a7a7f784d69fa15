# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of the operators' page, docs/xen-host.md: the tests run them as they stand there."""

import re
from functools import cache

from tests.harness.packages import REPOSITORY

PAGE = REPOSITORY / "docs" / "xen-host.md"
# A block of commands is fenced with ```sh NAME, where NAME is how the tests call it.
BLOCK = re.compile(r"^```sh(?: ([a-z-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def scripts() -> dict[str, str]:
    """Every block of commands by its name; one without a name is called \"\"."""
    return {name: f"set -e\n{text}" for name, text in BLOCK.findall(PAGE.read_text())}


def script(name: str) -> str:
    """One block, as a shell script that ends with the first command that fails."""
    return scripts()[name]
