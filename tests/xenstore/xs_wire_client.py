# SPDX-License-Identifier: GPL-2.0-or-later
"""A bare XenStore client for tests: sends any bytes, and shows exactly what came back."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import Self

import pytest

HEADER = struct.Struct("=IIII")
(
    DIRECTORY, READ, GET_PERMS, WATCH, UNWATCH, TRANSACTION_START, TRANSACTION_END, INTRODUCE, RELEASE,
    GET_DOMAIN_PATH, WRITE, MKDIR, RM, SET_PERMS, WATCH_EVENT, ERROR, IS_DOMAIN_INTRODUCED, RESUME, SET_TARGET,
) = range(1, 20)  # fmt: skip
RESET_WATCHES, DIRECTORY_PART = 21, 22


class Refused(Exception):
    """The server answered ERROR; the argument is the name, e.g. `EACCES`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def refused(name: str) -> pytest.RaisesExc[Refused]:
    """Expects an ERROR answer of that name."""
    return pytest.raises(Refused, match=f"^{name}$")


def refused_as_malformed(wire: Wire, kind: int, payload: bytes) -> None:
    """Expects EINVAL for a request with these bytes, and that the connection goes on."""
    with refused("EINVAL"):
        wire.raw(kind, payload)
    assert wire.call(GET_DOMAIN_PATH, "0") == b"/local/domain/0\0"


class Disconnected(Exception):
    """The server closed the connection."""


@dataclass(frozen=True)
class Answer:
    """One message from the server."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes


class Wire:
    """One connection. Events that come in between are kept for events()."""

    def __init__(self, path: str | os.PathLike[str], timeout_s: float = 20) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(os.fspath(path))
        self._req_id = 0
        self._events: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        self.sock.close()

    def send(self, kind: int, payload: bytes, tx_id: int = 0) -> int:
        """Send a request without waiting; returns its id."""
        self._req_id += 1
        self.sock.sendall(HEADER.pack(kind, self._req_id, tx_id, len(payload)) + payload)
        return self._req_id

    def receive(self) -> Answer:
        """The next message, event or not. Raises Disconnected."""
        kind, req_id, tx_id, size = HEADER.unpack(self._exactly(HEADER.size))
        return Answer(kind, req_id, tx_id, self._exactly(size))

    def answer(self) -> Answer:
        """The next message that is not an event."""
        while True:
            answer = self.receive()
            if answer.type != WATCH_EVENT:
                return answer
            path, token = answer.payload.split(b"\0")[:2]
            self._events.append((path.decode(), token.decode()))

    def raw(self, kind: int, payload: bytes, tx_id: int = 0) -> bytes:
        """A request and its answer's payload. Raises Refused."""
        req_id = self.send(kind, payload, tx_id)
        answer = self.answer()
        assert (answer.req_id, answer.tx_id) == (req_id, tx_id)
        if answer.type == ERROR:
            raise Refused(answer.payload.rstrip(b"\0").decode())
        assert answer.type == kind
        return answer.payload

    def call(self, kind: int, *arguments: str, tx_id: int = 0) -> bytes:
        """Like raw(), with each argument NUL-terminated."""
        return self.raw(kind, b"".join(argument.encode() + b"\0" for argument in arguments), tx_id)

    def write(self, path: str, value: bytes, tx_id: int = 0) -> None:
        """WRITE."""
        assert self.raw(WRITE, path.encode() + b"\0" + value, tx_id) == b"OK\0"

    def read(self, path: str, tx_id: int = 0) -> bytes:
        """READ."""
        return self.call(READ, path, tx_id=tx_id)

    def begin(self) -> int:
        """TRANSACTION_START; returns the id."""
        return int(self.raw(TRANSACTION_START, b"\0").rstrip(b"\0"))

    def end(self, tx_id: int, verdict: str = "T") -> None:
        """TRANSACTION_END."""
        assert self.call(TRANSACTION_END, verdict, tx_id=tx_id) == b"OK\0"

    def events(self) -> list[tuple[str, str]]:
        """(path, token) of every event since the last time.

        A round trip comes first: the server answers in order, so whatever it had for us before is here then.
        """
        self.call(GET_DOMAIN_PATH, "0")
        events, self._events = self._events, []
        return events

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.sock.recv(size - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                raise Disconnected
            data += part
        return data
