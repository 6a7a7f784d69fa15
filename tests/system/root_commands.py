# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that only root may run, for tests that mount file systems and make block devices."""

from __future__ import annotations

import os
import subprocess

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount file systems and make block devices")


def sh(*command: str) -> str:
    """Runs a command; returns what it prints on standard output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
