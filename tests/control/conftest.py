# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of logging and of output share."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import structlog


class Terminal(io.StringIO):
    """A stream that says that it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def fresh_structlog() -> Iterator[None]:
    """Each test sets logging up afresh and leaves nothing behind."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
