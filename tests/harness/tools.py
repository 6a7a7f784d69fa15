# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of the user's machine: found by name, run with an argument list, their failures explained."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.harness.errors import BuildFailed, MissingTool

DEBIAN_PACKAGE_OF = {
    "apt-get": "apt (the images are made from Debian 12's packages)",
    "cmake": "cmake",
    "dpkg": "dpkg",
    "gcc": "gcc",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
}
OUTPUT_SHOWN = 4000


def find_tool(name: str) -> str:
    """Returns the path of the program `name`, or raises MissingTool with the package to install."""
    beside_python = str(Path(sys.executable).parent)  # a virtual environment brings its own cmake
    path = shutil.which(name) or shutil.which(name, path=beside_python)
    if path is None:
        package = DEBIAN_PACKAGE_OF.get(name, name)
        raise MissingTool(
            f"{name} is not installed. The tests on real Xen need it: install the Debian package {package}, "
            f"for instance with `apt-get install --no-install-recommends {package.split()[0]}`."
        )
    return path


def run_tool(arguments: list[str | Path], *, env: Mapping[str, str] | None = None, deadline_s: float = 900) -> str:
    """Runs a program of the user's machine and returns its output; BuildFailed carries the output on failure."""
    program = find_tool(str(arguments[0]))
    command = [program, *map(str, arguments[1:])]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=deadline_s,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"{' '.join(command)}: not done after {deadline_s:.0f} s") from error
    if done.returncode:
        raise BuildFailed(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-OUTPUT_SHOWN:]}")
    return done.stdout


def words(text: str) -> list[str]:
    """Returns the words of a text: how this package writes its long lists of names."""
    return text.split()
