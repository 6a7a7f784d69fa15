# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that one process at a time can lock; a process that ends, in whatever way, releases its locks."""

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
Locks a device that the role needs and the other role does not lock, as a confined service has no place to make a file.
Two services of one role in one domain would take each other's devices and grants for their own.
"""


def only_one(role: str, sim: Sim | None) -> AbstractContextManager[None]:
    """
    A lock held by the one service of `role`, "mediator" or "backend", in this domain; `sim` as for the services.
    ConfigError: another process of that role is running here.
    """
    path = sim[0] / f"{role}-dom{sim[1]}.lock" if sim else _DEVICES[role]
    return locked(path, make=sim is not None, busy=f"another {role} runs in this domain; stop it first")


@contextmanager
def locked(path: Path, *, make: bool = True, busy: str | None = None, deadline: float | None = None) -> Iterator[None]:
    """
    Holds the lock on a file. The file is made if need be; with `make` False, it must exist and is opened only for
    reading. If another process has the lock, this waits, until `deadline` on the monotonic clock if given; with `busy`
    it does not wait at all. ConfigError: the lock cannot be had.
    """
    try:
        lock = os.open(path, os.O_CLOEXEC | (os.O_WRONLY | os.O_CREAT if make else os.O_RDONLY), 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened for locking: {error.strerror}") from error
    try:
        if busy is None and deadline is None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        while not _take(lock):
            if busy is not None or time.monotonic() >= (deadline or 0.0):
                raise ConfigError(f"{path} is locked: {busy or 'another shadowvq process is still at work'}")
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
