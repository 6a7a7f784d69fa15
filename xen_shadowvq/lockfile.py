# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that one process at a time can lock; a process that ends, however it does, lets go."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from xen_shadowvq.domain import Sim
from xen_shadowvq.errors import ConfigError

_POLL_S = 0.02
_DEVICES = {"mediator": Path("/dev/xen/privcmd"), "backend": Path("/dev/xen/gntdev")}
"""
What a role cannot do without, and the other one does not lock: a confined service has no place to make a file. Two
services of one role in one domain would take each other's devices and grants for their own.
"""


def only_one(role: str, sim: Sim | None) -> AbstractContextManager[None]:
    """
    Held by the one service of `role`, "mediator" or "backend", in this domain; `sim` as for the services. ConfigError:
    another process of that role runs here.
    """
    path = sim[0] / f"{role}-dom{sim[1]}.lock" if sim else _DEVICES[role]
    return locked(path, make=sim is not None, busy=f"another {role} runs in this domain")


@contextmanager
def locked(path: Path, *, make: bool = True, busy: str | None = None, deadline: float | None = None) -> Iterator[None]:
    """
    Holds the lock on a file, which is made if need be, or with `make` False on one that is there, which is only opened
    to read. Where another process has it, this waits, until `deadline` on the monotonic clock if there is one; or, with
    `busy`, not at all. ConfigError: it is not to be had.
    """
    try:
        lock = os.open(path, os.O_CLOEXEC | (os.O_WRONLY | os.O_CREAT if make else os.O_RDONLY), 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened to be locked: {error.strerror}") from error
    try:
        if busy is None and deadline is None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        while not _take(lock):
            if busy is not None or time.monotonic() >= (deadline or 0.0):
                raise ConfigError(f"{path} is locked: {busy or 'another command does not come to its end'}")
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(lock)


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
