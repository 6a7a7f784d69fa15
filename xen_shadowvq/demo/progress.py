# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's steps on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

MIB = 1 << 20


class _Size(ProgressColumn):
    """How many MiB of how many, for steps that move bytes."""

    def render(self, task: Task) -> Text:
        if not task.fields["sized"] or task.total is None:
            return Text()
        return Text(f"{task.completed / MIB:.0f}/{task.total / MIB:.0f} MiB")


class progress:
    """A line for each step of the demo, with a bar where its size is known."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<50}"),
            BarColumn(bar_width=10),
            _Size(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: Any = None

    def __enter__(self) -> Callable[[str, int], Callable[[int], None]]:
        self._progress.start()
        return self._step

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()

    def _step(self, name: str, size: int) -> Callable[[int], None]:
        self._finish()
        self._task = self._progress.add_task(name, total=size or None, sized=size > 0)
        return lambda done: self._progress.update(self._task, completed=done)

    def _finish(self) -> None:
        if self._task is not None:
            task = next(t for t in self._progress.tasks if t.id == self._task)
            self._progress.update(self._task, total=task.total or 1, completed=task.total or 1)
