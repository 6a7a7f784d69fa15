# SPDX-License-Identifier: GPL-2.0-or-later
"""
Which process runs where while fairness is measured, and how much of the processors strangers had.

The worker has a processor to itself. All other processes of the run share the rest, with the neighbour and its backend
ahead of all others: what makes the neighbour wait is then the mediator, and not that one machine plays all domains. If
we may (as root), those few run in real time, so that strangers do not matter either; otherwise, everybody else runs
only when they sleep.
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
    """The processors that we may use: the worker's, and everybody else's. If there is only one, it is both."""

    worker: int
    others: frozenset[int]

    @classmethod
    def divide(cls, allowed: Iterable[int]) -> Self:
        """Gives the last one to the worker."""
        *others, worker = sorted(allowed)
        return cls(worker, frozenset(others or [worker]))

    @property
    def all(self) -> frozenset[int]:
        """The worker's, and the others."""
        return self.others | {self.worker}


@contextmanager
def keep_off_the_worker() -> Iterator[Processors]:
    """Keeps this process, and those that it starts from now on, off the worker's processor."""
    before = os.sched_getaffinity(0)
    processors = Processors.divide(before)
    os.sched_setaffinity(0, processors.others)
    try:
        yield processors
    finally:
        os.sched_setaffinity(0, before)


class Precedence(enum.Enum):
    """How the measured threads come to run before all others."""

    REAL_TIME = "in real time"
    OTHERS_IDLE = "while the others idle"

    @classmethod
    def possible(cls) -> Self:
        """The best that this process may arrange."""
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
        except PermissionError:
            return cls("while the others idle")
        os.sched_setscheduler(0, *before)
        return cls("in real time")

    def first(self, thread: int) -> None:
        """Puts a measured thread, and those that it starts from now on, first."""
        if self is Precedence.REAL_TIME:
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(_PRIORITY))

    def after(self, thread: int) -> None:
        """Puts another thread of ours, and those that it starts from now on, behind the measured ones."""
        if self is Precedence.REAL_TIME:
            os.setpriority(os.PRIO_PROCESS, thread, _NICE)  # of one thread, on Linux; still before strangers
        else:
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def threads(process: int) -> list[int]:
    """The threads of a living process."""
    return [int(entry.name) for entry in Path(f"/proc/{process}/task").iterdir()]


def pinned_thread(process: int, processor: int) -> int:
    """The thread that may run on that processor only. ValueError: there is none, or there are several."""
    (found,) = (thread for thread in threads(process) if os.sched_getaffinity(thread) == {processor})
    return found


def thread_times_ns(process: int, thread: int) -> tuple[int, int]:
    """How long a thread has run so far, and how long it has waited for its processor (sched-stats)."""
    ran, waited, _ = Path(f"/proc/{process}/task/{thread}/schedstat").read_text().split()
    return int(ran), int(waited)


def process_time_ns(process: int) -> int:
    """Processor time of all threads of a process, ended ones included: fields 14 and 15 of proc_pid_stat(5)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _NS_PER_S // _TICKS_PER_S


@dataclass(frozen=True)
class Shares:
    """Shares of one processor over a span of time. `others` is what neither we nor idling had, stolen time included."""

    worker: float
    worker_waited: float
    control: float
    others: float


class Meter:
    """Measures how processor time is shared from its creation on. `worker` is a thread of the process `mediator`."""

    def __init__(self, processors: Processors, mediator: int, worker: int, processes: Iterable[int]) -> None:
        self._processors = processors
        self._mediator, self._worker = mediator, worker
        self._processes = [mediator, *processes]
        self._start = time.monotonic_ns()
        self._before = self._read()

    def shares(self) -> Shares:
        """The shares since this meter was made."""
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
