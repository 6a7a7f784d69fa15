# SPDX-License-Identifier: GPL-2.0-or-later
"""Between str and XenStore's bytes, and a socket on which nothing takes longer than a time limit."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from typing import Final

from xen_shadowvq.errors import XenStoreError

PAYLOAD_BYTES_MAX: Final = 4096

_PATH_BYTES_MAX: Final = 3072
_PATH: Final = re.compile(r"/|[@/]?[A-Za-z0-9_@-]+(?:/[A-Za-z0-9_@-]+)*")
_PERM: Final = re.compile(r"[nrwb][0-9]{1,5}")


def text(raw: bytes) -> str:
    """A peer may have written any bytes; those that are not UTF-8 become escapes, which no parser takes for a value."""
    return raw.decode("utf-8", "backslashreplace")


def raw_path(path: str) -> bytes:
    """The path for the wire. Raises XenStoreError EINVAL."""
    if len(path) > _PATH_BYTES_MAX or not _PATH.fullmatch(path):
        raise XenStoreError(errno.EINVAL, path)
    return path.encode("ascii")


def raw_token(token: str, path: str) -> bytes:
    """The token for the wire. Raises XenStoreError EINVAL; `path` is for its message."""
    raw = token.encode()
    if b"\0" in raw:
        raise XenStoreError(errno.EINVAL, path)
    return raw


def raw_perms(perms: list[str], path: str) -> list[bytes]:
    """The permissions for the wire. Raises XenStoreError EINVAL; `path` is for its message."""
    if not perms or not all(_PERM.fullmatch(perm) for perm in perms):
        raise XenStoreError(errno.EINVAL, path)
    return [perm.encode() for perm in perms]


class SocketTransport:
    """A connected Unix socket in the form that pyxs wants. Every method raises OSError, TimeoutError being one."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout_s)
        try:
            self._sock.connect(path)
        except BaseException:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        view = memoryview(bytearray(size))
        got = 0
        while got < size:
            count = self._sock.recv_into(view[got:])
            if not count:
                raise ConnectionResetError(errno.ECONNRESET, "closed by xenstored")
            got += count
        return view.tobytes()

    def send(self, data: bytes) -> None:
        """All of `data`."""
        self._sock.sendall(data)

    def close(self) -> None:
        """Disconnect; whoever is in recv() or send() in another thread gets an error."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
