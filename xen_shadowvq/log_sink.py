# SPDX-License-Identifier: GPL-2.0-or-later
"""Where log lines go. Whatever becomes of them, whoever logs is neither ended nor delayed by it."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import TextIO

_PIECE_BYTES = 4096  # a descriptor that polls as writable takes that much without waiting (PIPE_BUF)
_PATIENCE_MS = 100  # for a slow reader; one that stays away is not waited for again


class Sink:
    """
    A stream that may not take a line: its disk may be full, its reader gone or asleep, or there may be no stream at
    all. Lines that it did not take are counted. Safe to use from several threads; a logger in structlog's sense.
    """

    def __init__(self, stream: TextIO | None, lost_line: Callable[[int], str]) -> None:
        """`lost_line` makes the line that says how many were lost; it precedes the first line that is taken again."""
        self._stream = stream
        self._lost_line = lost_line
        self._lost = 0
        self._fd: int | None = None
        with contextlib.suppress(OSError, ValueError):  # a stream in memory has none
            self._fd = stream.fileno() if stream is not None else None
        self._lock = threading.Lock()
        self._torn = False  # the last line went out in part
        self._stalled = False

    def msg(self, line: str) -> None:
        """Writes a line, or counts it."""
        with self._lock:
            try:
                if self._lost:
                    self._put(self._lost_line(self._lost))
                    self._lost = 0
                self._put(line)
            except (OSError, ValueError):
                self._lost += 1

    debug = info = warning = error = critical = msg

    def _put(self, line: str) -> None:
        if self._stream is None:
            raise OSError
        if self._fd is None:
            self._stream.write(f"{line}\n")
            self._stream.flush()
            return
        left = memoryview(("\n" * self._torn + line + "\n").encode(errors="backslashreplace"))
        while left:
            self._wait(self._fd)
            left = left[os.write(self._fd, left[:_PIECE_BYTES]) :]
            self._torn = bool(left)

    def _wait(self, fd: int) -> None:
        """BlockingIOError: writing would wait for whoever reads."""
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        self._stalled = not poller.poll(0 if self._stalled else _PATIENCE_MS)
        if self._stalled:
            raise BlockingIOError
