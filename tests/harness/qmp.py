# SPDX-License-Identifier: GPL-2.0-or-later
"""A client for QEMU's own control socket."""

import json
import socket
from typing import Any

from tests.harness.errors import MachineFailed

ANSWER_DEADLINE_S = 30.0


class Qmp:
    """One QMP connection; one thread uses it. Events are read and dropped."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(ANSWER_DEADLINE_S)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._next()  # the greeting
        self.execute("qmp_capabilities")

    def _next(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise MachineFailed(f"QEMU's control socket: {error}") from error
        if not line:
            raise MachineFailed("QEMU closed its control socket")
        message: dict[str, Any] = json.loads(line)
        return message

    def execute(self, command: str, **arguments: object) -> object:
        """Runs a QMP command and returns what it answers; MachineFailed if QEMU refuses."""
        self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            message = self._next()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise MachineFailed(f"QEMU refused {command}: {message['error']}")

    def registers(self) -> str:
        """What each processor is doing: for a machine that hangs."""
        return str(self.execute("human-monitor-command", **{"command-line": "info registers -a"}))

    def close(self) -> None:
        """Closes the connection."""
        self._lines.close()
        self._connection.close()
