# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of its memory a driver has given away at this very moment, in a file that others may map: see svq_ledger.h."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, Self

from xen_shadowvq.native import load


def ledger_path(directory: Path, domid: int, device: int) -> Path:
    """Where the driver of a device keeps its ledger in an embedded machine's directory."""
    return directory / f"ledger-{domid}-{device}"


class Ledger:
    """A `struct svq_ledger` in shared memory."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._library = load("driver")
        self._buffer = self._library.ffi.from_buffer(memory, require_writable=True)  # keeps it mapped
        self.handle: Any = self._library.ffi.cast("struct svq_ledger *", self._buffer)

    @classmethod
    def create(cls, path: Path, pages: int) -> Self:
        """
        Makes a new ledger for a driver of that many pages. If there was one before, of a driver of the same device,
        that driver may have left requests behind in the same memory: nothing can be said before the next offer.
        """
        size = load("driver").lib.svq_ledger_bytes(pages)
        successor = path.exists()
        new = path.with_suffix(".new")
        with new.open("w+b") as file:
            os.truncate(file.fileno(), size)
            ledger = cls(mmap.mmap(file.fileno(), size))
        if successor:
            ledger.by_hand()
        new.replace(path)
        return ledger

    @classmethod
    def private(cls, pages: int) -> Self:
        """A ledger that nobody else sees."""
        return cls(mmap.mmap(-1, load("driver").lib.svq_ledger_bytes(pages)))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the ledger of a driver, which may be another process. FileNotFoundError: there is none."""
        with path.open("r+b") as file:
            return cls(mmap.mmap(file.fileno(), 0))

    def take_back(self, how: str) -> None:
        """Notes that all is back; `how` is the end of a constant SVQ_BACK_..."""
        self._library.lib.svq_ledger_take_back(self.handle, getattr(self._library.lib, f"SVQ_BACK_{how}"))

    def by_hand(self) -> None:
        """Notes that the driver writes its rings by hand from now on, until all is back."""
        self._library.lib.svq_ledger_by_hand(self.handle)
