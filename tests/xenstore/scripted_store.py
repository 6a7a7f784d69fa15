# SPDX-License-Identifier: GPL-2.0-or-later
"""A xenstored that does what a test tells it to, for the answers that a sound one never gives."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from . import xs_wire_client as xs
from .xs_wire_client import Answer

# Gets a request, returns the bytes to send: b"" to stay silent, None to close the connection.
Script = Callable[[Answer], bytes | None]


def message(kind: int, payload: bytes, req_id: int = 0, tx_id: int = 0) -> bytes:
    """Any message."""
    return xs.HEADER.pack(kind, req_id, tx_id, len(payload)) + payload


def answer(request: Answer, payload: bytes = b"OK\0") -> bytes:
    """The right answer's header with this payload."""
    return message(request.type, payload, request.req_id, request.tx_id)


def event(path: str, token: str) -> bytes:
    """A watch event."""
    return message(xs.WATCH_EVENT, path.encode() + b"\0" + token.encode() + b"\0")


class ScriptedStore:
    """Serves one connection after the other with `script`; every request is put on `requests`, too."""

    def __init__(self, path: Path, script: Script) -> None:
        self.path = path
        self.script = script
        self.requests: queue.Queue[Answer] = queue.Queue()
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        for sock in (self._listener, self._connection):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def send(self, data: bytes) -> None:
        """Send something unasked."""
        assert self._connection is not None
        self._connection.sendall(data)

    def _run(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with connection, contextlib.suppress(OSError, EOFError):
                self._connection = connection
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        with stream:
            while header := stream.read(xs.HEADER.size):
                kind, req_id, tx_id, size = xs.HEADER.unpack(header)
                request = Answer(kind, req_id, tx_id, stream.read(size))
                self.requests.put(request)
                data = self.script(request)
                if data is None:
                    return
                connection.sendall(data)
