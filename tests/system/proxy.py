# SPDX-License-Identifier: GPL-2.0-or-later
"""A Unix socket between a client and a server that can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Self

CHUNK = 65536


class Proxy:
    """Passes bytes on between whoever connects to `path` and the server at `target`; as a context manager."""

    def __init__(self, path: Path, target: Path) -> None:
        self.accepted = 0
        self._target = target
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._refusing = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def cut(self, *, refuse: bool = False) -> None:
        """Ends all connections; with `refuse` new ones end at once too, until `allow`."""
        self._refusing = refuse
        for pair in self._pairs:
            for side in pair:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def allow(self) -> None:
        """Takes connections again."""
        self._refusing = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self._refusing:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._target))
            self._pairs.append((client, server))
            self._pump_pair(client, server)

    def _pump_pair(self, client: socket.socket, server: socket.socket) -> None:
        for source, sink in ((client, server), (server, client)):
            self._threads.append(threading.Thread(target=self._pump, args=(source, sink), daemon=True))
            self._threads[-1].start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                sink.sendall(data)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
        source.close()
