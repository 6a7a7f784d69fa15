# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a running machine. Every wait looks here, so that none outlasts the machine's death."""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.harness.errors import MachineFailed, WaitTimedOut

Found = TypeVar("Found")

# Any of these on the console of Xen and dom0 ends the machine. Guests have consoles of their own.
FAILURE = re.compile(
    rb"Panic on CPU|FATAL TRAP|FATAL PAGE FAULT|Xen BUG at|Insn mismatch|Kernel panic|Kernel BUG at|"
    rb"BUG: unable to handle|general protection fault|harness: "
)
POLL_QEMU_S = 1.0
CONSOLE_TAIL_LINES = 25


class Monitor:
    """Facts that threads report and waits look at, under one condition variable."""

    def __init__(self, console_log: Path, qemu_alive: Callable[[], bool]) -> None:
        self.changed = threading.Condition()
        self.console_log = console_log
        self._qemu_alive = qemu_alive
        self._failure: str | None = None
        self._console = b""

    def fail(self, reason: str) -> None:
        """Remembers the first reason for which the machine is lost, and wakes every wait."""
        with self.changed:
            self._failure = self._failure or reason
            self.changed.notify_all()

    def add_console(self, data: bytes) -> None:
        """Takes what Xen and dom0 have said."""
        with self.changed:
            unseen = self._console.rfind(b"\n") + 1
            self._console += data
            for line in self._console[unseen:].split(b"\n")[:-1]:
                if FAILURE.search(line) and self._failure is None:
                    self._failure = f"on the console: {line.decode(errors='replace').strip()}"
            self.changed.notify_all()

    def console_has(self, pattern: bytes) -> bool:
        """Whether the console has shown a match of a regular expression so far."""
        with self.changed:
            return re.search(pattern, self._console) is not None

    def check(self) -> None:
        """Raises MachineFailed if the machine is lost."""
        if self._failure is None and not self._qemu_alive():
            self._failure = "QEMU has ended"
        if self._failure is not None:
            raise MachineFailed(f"{self._failure}\n{self._tail()}")

    def wait(self, found: Callable[[], Found | None], what: str, deadline_s: float) -> Found:
        """Returns what `found` returns, as soon as that is not None.

        MachineFailed when the machine dies first; WaitTimedOut, naming `what`, after `deadline_s` seconds.
        """
        end = time.monotonic() + deadline_s
        with self.changed:
            while True:
                answer = found()
                if answer is not None:
                    return answer
                self.check()
                left = end - time.monotonic()
                if left <= 0:
                    raise WaitTimedOut(f"{what}: not seen in {deadline_s:.0f} s\n{self._tail()}")
                self.changed.wait(min(left, POLL_QEMU_S))

    def _tail(self) -> str:
        lines = self._console.decode(errors="replace").splitlines()[-CONSOLE_TAIL_LINES:]
        return f"--- the end of {self.console_log}:\n" + "\n".join(lines)
