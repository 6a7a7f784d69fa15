# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images: making one with real files in it, copying the user's, and asking a file system checker about them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from xen_shadowvq.errors import ImageError

_CHECKERS = {
    "ext2": ["e2fsck", "-fn"],
    "ext3": ["e2fsck", "-fn"],
    "ext4": ["e2fsck", "-fn"],
    "vfat": ["fsck.fat", "-n"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check", "--readonly"],
}
_EXT_MAGIC_OFFSET, _EXT_MAGIC = 1080, b"\x53\xef"
_COPY_BYTES = 1 << 20


def tool(name: str) -> str | None:
    """A program's path, also in the folders that only root's PATH has."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def make_image(path: Path, size_mib: int) -> None:
    """Makes a sparse ext4 image with a tree of real files in it: Python's own standard library."""
    mke2fs = tool("mke2fs")
    if mke2fs is None:
        raise ImageError(str(path), "mke2fs is not installed: install e2fsprogs, or give an image with IMAGE=path")
    tree = path.parent / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    _copy_tree(Path(sysconfig.get_path("stdlib")), tree, size_mib * (1 << 20) // 2)
    path.unlink(missing_ok=True)
    command = [mke2fs, "-q", "-F", "-t", "ext4", "-d", str(tree), str(path), f"{size_mib}M"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    shutil.rmtree(tree, ignore_errors=True)
    if done.returncode != 0:
        raise ImageError(str(path), f"mke2fs failed: {done.stderr.strip()}")


def _copy_tree(source: Path, target: Path, bytes_max: int) -> None:
    copied = 0
    for file in sorted(source.rglob("*")):
        if file.is_symlink() or not file.is_file() or "site-packages" in file.parts or "__pycache__" in file.parts:
            continue
        copied += file.stat().st_size
        if copied > bytes_max:
            return
        into = target / file.relative_to(source)
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, into)


def copy_image(source: Path, target: Path) -> None:
    """The demo works on a copy: the user's image is only read. Holes stay holes."""
    if not source.is_file():
        raise ImageError(str(source), "expected a regular file with a raw disk image")
    done = subprocess.run(
        ["/bin/cp", "--sparse=always", "--reflink=auto", "--", str(source), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ImageError(str(source), f"cannot be copied: {done.stderr.strip()}")


def sha256(path: Path, offset: int = 0, length: int | None = None) -> str:
    """SHA-256 of a part of a file, in hexadecimal."""
    digest = hashlib.sha256()
    left = path.stat().st_size - offset if length is None else length
    with path.open("rb") as file:
        file.seek(offset)
        while left > 0 and (chunk := file.read(min(_COPY_BYTES, left))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def filesystem(path: Path) -> str | None:
    """The kind of file system in an image, or None."""
    with path.open("rb") as file:
        file.seek(_EXT_MAGIC_OFFSET)
        if file.read(2) == _EXT_MAGIC:
            return "ext4"
    blkid = tool("blkid")
    if blkid is None:
        return None
    done = subprocess.run(
        [blkid, "-p", "-o", "value", "-s", "TYPE", str(path)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def fsck(path: Path) -> bool | None:
    """Whether the checker finds the file system clean. None: we have no checker for what is in the image."""
    command = _CHECKERS.get(filesystem(path) or "")
    program = tool(command[0]) if command else None
    if command is None or program is None:
        return None
    return subprocess.run([program, *command[1:], str(path)], capture_output=True, check=False).returncode == 0
