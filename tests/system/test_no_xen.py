# SPDX-License-Identifier: GPL-2.0-or-later
"""What the programs say on a machine without Xen, or with libraries of a release that is too old."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .command import run

OPEN = """
import sys
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.hypervisor import Hypervisor
try:
    Hypervisor("mediator", None)
except ConfigError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.skipif(Path("/dev/xen/xenbus").exists(), reason="this machine is a Xen domain")
@pytest.mark.parametrize("arguments", [("mediator",), ("backend",), ("ctl", "list")], ids=" ".join)
def test_without_xen_each_program_says_so(arguments: tuple[str, ...]) -> None:
    """Status 2 and one line that says that this is no Xen domain, and what to start in dom0."""
    done = run(*arguments)
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert "run this in a Xen domain; in dom0 start xenstored" in line


def open_with(libraries: Path) -> str:
    """What opening real Xen says when the loader finds libraries in a folder first."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    done = subprocess.run([sys.executable, "-c", OPEN], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_libraries_of_an_old_xen_are_named(tmp_path: Path) -> None:
    """A library of Xen that lacks a function is named with the function; one that is missing or no library is named
    with what to install."""
    source = tmp_path / "old.c"
    source.write_text("int nothing;\n")
    compiler = shutil.which("gcc") or "cc"
    library = tmp_path / "libxengnttab.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    assert "refused: Xen's library libxengnttab.so.1 is too old: it has no xengnttab_open" in open_with(tmp_path)

    library.write_bytes(b"not a library")
    assert "libxengnttab.so.1 cannot be loaded; install Xen's tools libraries" in open_with(tmp_path)
