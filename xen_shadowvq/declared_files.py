# SPDX-License-Identifier: GPL-2.0-or-later
"""The directory of declarations while somebody edits it: only what has come to rest counts."""

from __future__ import annotations

from pathlib import Path

from xen_shadowvq.declarations import Declaration, Declarations, read_directory, read_file
from xen_shadowvq.errors import ConfigError

Signature = tuple[int, int, int]


class DeclaredFiles:
    """
    It polls instead of using inotify: polling also works on network file systems and for replaced directories, and
    needs no watch to be set up again. A file that has changed, come or gone counts once two looks in a row found it the
    same: half a file that an editor has written does not pass for all of it, nor the moment between its two renames for
    the end of the guest's disks.
    """

    def __init__(self, directory: Path) -> None:
        self.known = False
        """Whether the directory could be read at least once: before that, nothing is known about any guest."""
        self.guests: dict[str, Declaration | None] = {}
        """The declarations that count now."""
        self.problems: tuple[str, ...] = ()
        """What was wrong at the last look."""
        self._directory = directory
        self._seen: dict[str, Declaration | None] = {}
        self._read_before: dict[Path, tuple[Signature, Declaration | ConfigError]] = {}

    def look(self, *, at_once: bool = False) -> bool:
        """
        Reads what is new; returns whether what counts has changed. `at_once`: all of it counts now, at somebody's
        request.
        """
        try:
            read = read_directory(self._directory, self._read)
        except ConfigError as error:
            self.problems = error.problems
            return False
        self.problems = read.problems
        settled = dict(read.guests) if at_once or not self.known else self._settled(read)
        changed = settled != self.guests or not self.known
        self.guests, self._seen, self.known = settled, dict(read.guests), True
        return changed

    def _read(self, path: Path) -> Declaration:
        """Reads a file, unless it was not touched since the last time."""
        try:
            stat = path.stat()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        signature = stat.st_ino, stat.st_size, stat.st_mtime_ns
        before = self._read_before.get(path)
        if before is None or before[0] != signature:
            before = self._read_before[path] = signature, _outcome(path)
        if isinstance(before[1], ConfigError):
            raise before[1]
        return before[1]

    def _settled(self, read: Declarations) -> dict[str, Declaration | None]:
        """What counts now. An invalid file counts at once: it stops all work for its guest."""
        settled = {name: now for name, now in read.guests.items() if now is None or self._rests(name, read)}
        for name, before in self.guests.items():
            if name not in settled and not (name not in read.guests and self._rests(name, read)):
                settled[name] = before
        return settled

    def _rests(self, name: str, read: Declarations) -> bool:
        """Whether this look found the same of a guest's file as the last one."""
        return (name in read.guests, read.guests.get(name)) == (name in self._seen, self._seen.get(name))


def _outcome(path: Path) -> Declaration | ConfigError:
    try:
        return read_file(path)
    except ConfigError as error:
        return error
