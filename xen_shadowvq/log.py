# SPDX-License-Identifier: GPL-2.0-or-later
"""Logging: structlog set up once. It never ends or delays whoever logs, and no peer can fill the disk with lines."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from xen_shadowvq.log_limit import PeerLines
from xen_shadowvq.log_sink import Sink
from xen_shadowvq.output import printable, printable_block

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

KEYS_MAX = 1024  # keys that a RateLimited remembers; some are chosen by peers


def configure(level: Level = "info", log_format: Format = "auto", stream: TextIO | None = None) -> None:
    """
    Sets up logging for the process; call it before the first line is logged, since loggers are cached.

    `auto` means readable lines on a terminal and one JSON object a line otherwise. `stream` is standard error
    unless given.
    """
    out = stream if stream is not None else sys.stderr
    on_terminal = out is not None and out.isatty()  # there is none where the service manager closed it
    console = log_format == "console" or (log_format == "auto" and on_terminal)
    rendering: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _printable,
    ]
    if console:
        rendering += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=on_terminal, exception_formatter=structlog.dev.plain_traceback),
        ]
    else:
        rendering += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(sort_keys=False),
        ]
    sink = Sink(out, lambda lines: _rendered(rendering, "warning", {"event": "log_lines_lost", "lines": lines}))
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, PeerLines(time.monotonic), *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=True,
    )


def _rendered(processors: list[Processor], level: str, event: Any) -> str:
    for processor in processors:
        event = processor(None, level, event)
    return str(event)


def get_logger(**facts: object) -> FilteringBoundLogger:
    """A logger whose lines all carry `facts`, e.g. `domid` and `device`."""
    return cast(FilteringBoundLogger, structlog.get_logger(**facts))


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Makes the facts printable: text may be a peer's words."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable_block(value) if key in {"exception", "stack"} else printable(value)
    return event


class RateLimited:
    """
    Lets through at most one line per key per interval, and then says how many were left out before it.

    For lines that a peer can cause. Safe to use from several threads. It remembers `KEYS_MAX` keys; beyond
    that the key used longest ago is forgotten, which can let a line through early but never uses more
    memory.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        # For each key: when its last line was, and how many were left out since.
        self._seen: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def admit(self, key: Hashable) -> int | None:
        """How many lines of `key` were left out since the last; None when this one must be left out too."""
        now = self._clock()
        with self._lock:
            last, left_out = self._seen.get(key, (None, 0))
            admitted = last is None or now - last >= self.interval_s
            self._seen[key] = (now, 0) if admitted or last is None else (last, left_out + 1)
            self._seen.move_to_end(key)
            if len(self._seen) > KEYS_MAX:
                self._seen.popitem(last=False)
        return left_out if admitted else None

    def warning(self, logger: FilteringBoundLogger, event: str, *, key: Hashable = None, **facts: object) -> bool:
        """Logs `event` as a warning unless `(event, key)` was logged within the interval; True if it did."""
        left_out = self.admit((event, key))
        if left_out is None:
            return False
        if left_out:
            facts["left_out"] = left_out
        logger.warning(event, **facts)
        return True
