# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules, built for the kernel that the machine's guests run."""

from pathlib import Path

from tests.harness.packages import DebianTree, fetch_kernel_headers
from tests.harness.tools import run_tool


def build_module(cache: Path, tree: DebianTree, source: Path) -> Path:
    """Builds the one module whose sources are in `source`, there; takes gcc and make of the user's machine."""
    headers = fetch_kernel_headers(cache, tree.kernel_release)
    run_tool(["make", "-C", headers, f"M={source}", "modules"])
    (module,) = source.glob("*.ko")
    run_tool(["strip", "--strip-debug", module])
    return module
