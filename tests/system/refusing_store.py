# SPDX-License-Identifier: GPL-2.0-or-later
"""XenStore with a daemon that refuses one request: a proxy between a service and the machine's own."""

from __future__ import annotations

import contextlib
import socket
import threading

from xen_shadowvq.embedded.xs_wire import Message, MessageBuffer, Op, error_reply

from .proxy import CHUNK, Proxy

_ABORT = b"F\0"


class RefusingStore(Proxy):
    """Answers the request that `refuse_nth` names with an error; all others go on to the daemon."""

    _countdown = 0
    _errno = 0
    refused: Message | None = None
    """The request that was refused, once it was."""

    def refuse_nth(self, number: int, errno: int) -> None:
        """Refuses the `number`-th request from now on; 0: none."""
        self.refused, self._errno, self._countdown = None, errno, number

    def _pump_pair(self, client: socket.socket, server: socket.socket) -> None:
        lock, ends = threading.Lock(), set[int]()

        def answer(message: Message) -> None:
            with lock:
                client.sendall(message.encode())

        def request(message: Message) -> None:
            if not self._is_refused(message):
                server.sendall(message.encode())
            elif message.type == Op.TRANSACTION_END:  # what it refuses to commit the daemon forgets
                ends.add(message.req_id)
                server.sendall(Message(message.type, message.req_id, message.tx_id, _ABORT).encode())
            else:
                answer(error_reply(message, self._errno))

        def reply(message: Message) -> None:
            if message.type == Op.TRANSACTION_END and message.req_id in ends:
                ends.remove(message.req_id)
                message = error_reply(message, self._errno)
            answer(message)

        for source, sink, on in ((client, server, request), (server, client, reply)):
            self._threads.append(threading.Thread(target=self._messages, args=(source, sink, on), daemon=True))
            self._threads[-1].start()

    def _is_refused(self, message: Message) -> bool:
        if self._countdown == 0:
            return False
        self._countdown -= 1
        if self._countdown == 0:
            self.refused = message
        return self._countdown == 0

    @staticmethod
    def _messages(source: socket.socket, sink: socket.socket, on: object) -> None:
        buffer = MessageBuffer()
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                buffer.feed(data)
                while (message := buffer.pop()) is not None:
                    on(message)  # type: ignore[operator]
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
        source.close()
