# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's kernel module, built for the kernel that the machine's guests run."""

from pathlib import Path

from deploy.bundle import stage_module
from tests.harness.packages import DebianTree, fetch_kernel_headers
from tests.harness.tools import run_tool


def build_module(cache: Path, tree: DebianTree, folder: Path) -> Path:
    """Builds virtio_xenbus.ko in `folder` from a copy of the sources; takes gcc and make of the user's machine."""
    source = folder / "module"
    stage_module(source)
    headers = fetch_kernel_headers(cache, tree.kernel_release)
    run_tool(["make", "-C", source, f"KDIR={headers}"])
    module = source / "virtio_xenbus.ko"
    run_tool(["strip", "--strip-debug", module])
    return module
