# SPDX-License-Identifier: GPL-2.0-or-later
"""What was proved and found is told at the end, from whichever process it was."""

from __future__ import annotations

import pytest

_KINDS = ("proved", "found")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each proof and for each mistake that was found, with its time."""
    told = [
        (kind, f"{text}, {report.duration:.1f} s")
        for report in terminalreporter.getreports("passed")
        for kind, text in getattr(report, "user_properties", ())
        if report.when == "call" and kind in _KINDS
    ]
    for kind in _KINDS:
        lines = [line for told_kind, line in told if told_kind == kind]
        if lines:
            terminalreporter.section(f"{kind} ({len(lines)})")
            for line in lines:
                terminalreporter.write_line(line)
