# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls between the demo and its child processes: one JSON object for each line, over the child's stdin and stdout."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from xen_shadowvq.errors import ShadowVQError

Progress = Callable[[int], None]


class ChildFailed(ShadowVQError):
    """A child process of the demo failed; its log says more."""


class Child:
    """A child process `python -m module args...` that ends with its `with` block; its log goes to a file."""

    def __init__(self, name: str, module: str, args: list[str], log: Path) -> None:
        self.name = name
        self._log_path = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                bufsize=1,
            )

    def call(self, method: str, progress: Progress | None = None, /, **arguments: Any) -> Any:
        """Calls a method of the child's object and returns its answer. ChildFailed: it raised, or died."""
        self.start(method, **arguments)
        return self.finish(progress)

    def start(self, method: str, **arguments: Any) -> None:
        """Sends a call without waiting for its answer."""
        if self.process.stdin is None:
            raise ChildFailed(f"{self.name}: no channel")
        try:
            self.process.stdin.write(json.dumps({"call": method, "arguments": arguments}) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise ChildFailed(self._epitaph()) from error

    def finish(self, progress: Progress | None = None) -> Any:
        """Waits for the answer to `start`."""
        if self.process.stdout is None:
            raise ChildFailed(f"{self.name}: no channel")
        for line in self.process.stdout:
            message = json.loads(line)
            if "progress" in message:
                if progress:
                    progress(message["progress"])
            elif "error" in message:
                raise ChildFailed(f"{self.name}: {message['error']} (log: {self._log_path})")
            else:
                return message["answer"]
        raise ChildFailed(self._epitaph())

    def kill(self) -> None:
        """SIGKILL, at once."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.process.kill()  # it may be waiting for something that will never happen
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
        if self.process.stdout:
            self.process.stdout.close()

    def _epitaph(self) -> str:
        code = self.process.wait()
        tail = self._log_path.read_text(errors="replace").splitlines()[-3:]
        return f"{self.name} ended with status {code}: " + " / ".join(tail or ["its log is empty"])


def report_progress(value: int) -> None:
    """In the child: tells the demo how far a call has come."""
    sys.stdout.write(json.dumps({"progress": value}) + "\n")
    sys.stdout.flush()


def serve(target: object) -> None:
    """In the child: carries out calls of the target's public methods until stdin ends."""
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer = {"answer": getattr(target, message["call"])(**message["arguments"])}
        except ShadowVQError as error:
            answer = {"error": f"{message['call']}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
