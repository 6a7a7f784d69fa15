# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the demo runs: in folders of any name, and with an end that may come from outside."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xen_shadowvq.errors import ConfigError

_SOCKET_PATH_BYTES_MAX = 107  # sun_path, with its end
_OURS_BYTES = len("/shadowvq-01234567/xenstore-dom32751.sock")
_PLACES = "/tmp", "/var/tmp", "/dev/shm"  # noqa: S108 - only for a folder that mkdtemp makes
_END = signal.SIGTERM, signal.SIGHUP


@contextmanager
def machine_folder() -> Iterator[Path]:
    """
    A folder for the machine's sockets and for a link to the image. A socket's path has to be short and a path in
    XenStore has to be ASCII, while a user's folders may have any name.
    """
    for place in (tempfile.gettempdir(), *_PLACES):
        fits = len(os.fsencode(place)) + _OURS_BYTES <= _SOCKET_PATH_BYTES_MAX
        if fits and place.isascii() and place.isprintable() and os.access(place, os.W_OK | os.X_OK):
            with tempfile.TemporaryDirectory(prefix="shadowvq-", dir=place) as directory:
                yield Path(directory)
            return
    raise ConfigError(f"no folder for sockets: {tempfile.gettempdir()} is too long a path; set TMPDIR to a shorter one")


@contextmanager
def operators_files(output: Path) -> Iterator[None]:
    """ConfigError: a file or folder cannot be read, made or written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename or output}: {error.strerror or error}") from error


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """The first SIGTERM or SIGHUP ends the demo as Ctrl-C does: everything is taken down in order."""

    def end(*_: object) -> None:
        for number in _END:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in _END}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
