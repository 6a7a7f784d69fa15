# SPDX-License-Identifier: GPL-2.0-or-later
"""
Who runs where while fairness is measured, and how much of the processors somebody else had.

The worker has a processor for itself. All other processes of the run share the rest, the neighbour and its backend
before everybody else: what makes the neighbour wait is then the mediator, not that one machine plays all domains. Who
may (root) has those few run in real time, so that strangers do not matter either; else everybody else runs when they
sleep.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_NS_PER_S = 1_000_000_000
_PRIORITY, _NICE = 10, -10
_NOT_BUSY = (3, 4)  # idle and iowait, among the columns of /proc/stat


@dataclass(frozen=True)
class Processors:
    """Those that we may use: the worker's, and all others'. One and the same where there is only one."""

    worker: int
    others: frozenset[int]

    @classmethod
    def divide(cls, allowed: Iterable[int]) -> Self:
        """The last is the worker's."""
        *others, worker = sorted(allowed)
        return cls(worker, frozenset(others or [worker]))

    @property
    def all(self) -> frozenset[int]:
        """Both."""
        return self.others | {self.worker}


@contextmanager
def keep_off_the_worker() -> Iterator[Processors]:
    """This process, and those that it starts from now on, leave the worker's processor alone."""
    before = os.sched_getaffinity(0)
    processors = Processors.divide(before)
    os.sched_setaffinity(0, processors.others)
    try:
        yield processors
    finally:
        os.sched_setaffinity(0, before)


class Precedence(enum.Enum):
    """How those that are measured come to run before all others."""

    REAL_TIME = "in real time"
    OTHERS_IDLE = "while the others idle"

    @classmethod
    def possible(cls) -> Self:
        """What this process may arrange."""
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
        except PermissionError:
            return cls("while the others idle")
        os.sched_setscheduler(0, *before)
        return cls("in real time")

    def first(self, thread: int) -> None:
        """For a thread that is measured, and those that it starts from now on."""
        if self is Precedence.REAL_TIME:
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(_PRIORITY))

    def after(self, thread: int) -> None:
        """For another thread of ours, and those that it starts from now on."""
        if self is Precedence.REAL_TIME:
            os.setpriority(os.PRIO_PROCESS, thread, _NICE)  # of one thread, on Linux; still before strangers
        else:
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def threads(process: int) -> list[int]:
    """Of a process that lives."""
    return [int(entry.name) for entry in Path(f"/proc/{process}/task").iterdir()]


def pinned_thread(process: int, processor: int) -> int:
    """The thread that may run on that processor alone. ValueError: there is none, or there are several."""
    (found,) = (thread for thread in threads(process) if os.sched_getaffinity(thread) == {processor})
    return found


def thread_times_ns(process: int, thread: int) -> tuple[int, int]:
    """What a thread had of its processor, and how long it waited for it, so far (sched-stats)."""
    ran, waited, _ = Path(f"/proc/{process}/task/{thread}/schedstat").read_text().split()
    return int(ran), int(waited)


def process_time_ns(process: int) -> int:
    """What all threads of a process had, those that have ended included; fields 14 and 15 of proc_pid_stat(5)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _NS_PER_S // _TICKS_PER_S


@dataclass(frozen=True)
class Shares:
    """Of one processor, over a span of time. `others` had what neither we nor idling had, stolen time included."""

    worker: float
    worker_waited: float
    control: float
    others: float


class Meter:
    """Reads how processor time was shared since it was made: `worker` is a thread of the process `mediator`."""

    def __init__(self, processors: Processors, mediator: int, worker: int, processes: Iterable[int]) -> None:
        self._processors = processors
        self._mediator, self._worker = mediator, worker
        self._processes = [mediator, *processes]
        self._start = time.monotonic_ns()
        self._before = self._read()

    def shares(self) -> Shares:
        """Since then."""
        span = time.monotonic_ns() - self._start
        ran, waited, mediator, ours, busy = (
            (now - before) / span for now, before in zip(self._read(), self._before, strict=True)
        )
        return Shares(ran, waited, max(0.0, mediator - ran), max(0.0, busy - ours))

    def _read(self) -> tuple[int, int, int, int, int]:
        ran, waited = thread_times_ns(self._mediator, self._worker)
        mediator = ours = 0
        for process in self._processes:
            with suppress(FileNotFoundError):
                used = process_time_ns(process)
                ours += used
                mediator += used if process == self._mediator else 0
        return ran, waited, mediator, ours, self._busy_ns()

    def _busy_ns(self) -> int:
        ticks = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *columns = line.split()
            if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in self._processors.all:
                ticks += sum(int(text) for at, text in enumerate(columns[:8]) if at not in _NOT_BUSY)
        return ticks * _NS_PER_S // _TICKS_PER_S
