# SPDX-License-Identifier: GPL-2.0-or-later
"""What the C libraries export is what their headers declare: no more, or others could come to depend on it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from xen_shadowvq.native import load, native_folder


def declared(library: str) -> set[str]:
    """Functions of the headers that Python reads for a library."""
    lib = load(library).lib
    return {name for name in dir(lib) if not isinstance(getattr(lib, name), int)}


def exported(library: str) -> set[str]:
    """Symbols of a library that a program could link to."""
    nm = shutil.which("nm") or "nm"  # of binutils, which gcc needs
    path = str(native_folder() / f"libsvq_{library}.so")
    command = [nm, "--dynamic", "--defined-only", "--format=posix", path]
    nm_output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {re.sub(r"@.*", "", line.split()[0]) for line in nm_output.splitlines()}


@pytest.mark.parametrize("library", ["mediator", "backend", "driver"])
def test_exported_is_what_is_declared(library: str) -> None:
    assert exported(library) == declared(library)
