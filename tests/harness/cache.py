# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder of things that are slow to make, each named by the content it is made from."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

CACHE_VARIABLE = "SHADOWVQ_XEN_CACHE"
KEY_DIGITS = 16
LOCK_POLL_S = 0.5


def cache_folder(chosen: Path | None = None) -> Path:
    """Returns the cache folder: `chosen`, else $SHADOWVQ_XEN_CACHE, else ~/.cache/shadowvq/xen. Creates it."""
    folder = chosen or Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "shadowvq" / "xen")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def content_key(*parts: str | bytes | Path) -> str:
    """Returns a key that changes with any part: a text, some bytes, or a file's name, mode and content."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            fields = [part.name.encode(), oct(part.stat().st_mode).encode(), part.read_bytes()]
        else:
            fields = [part.encode() if isinstance(part, str) else part]
        for field in fields:
            digest.update(len(field).to_bytes(8, "little"))
            digest.update(field)
    return digest.hexdigest()[:KEY_DIGITS]


@contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Holds `lock_file` against other processes; waits for whoever holds it. The kernel frees it if we die."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _try_lock(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def one_of(lock_files: Sequence[Path]) -> Iterator[None]:
    """Holds one of `lock_files` against other processes; waits while all of them are held."""
    with ExitStack() as stack:
        locks = [stack.enter_context(file.open("w")) for file in lock_files]
        while not any(_try_lock(lock) for lock in locks):
            time.sleep(LOCK_POLL_S)
        yield


def build_once(cache: Path, name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Returns the folder `name`-`key` of the cache, made by `make(folder)` if it is not there.

    It appears whole or not at all. Older folders of that name are removed: a changed recipe replaces its result.
    """
    target = cache / f"{name}-{key}"
    if target.exists():
        return target
    with exclusive(cache / f"{name}.lock"):
        if target.exists():
            return target
        building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        try:
            make(building)
            building.chmod(0o755)
            building.rename(target)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        for old in cache.glob(f"{name}-*"):
            if old != target and len(old.name) == len(target.name):
                shutil.rmtree(old, ignore_errors=True)
    return target
