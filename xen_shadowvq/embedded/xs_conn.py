# SPDX-License-Identifier: GPL-2.0-or-later
"""One client connection: bounded buffers both ways, and the protocol state that dies with it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from xen_shadowvq.embedded.xs_wire import Message, MessageBuffer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from xen_shadowvq.embedded.xs_domain import Domain
    from xen_shadowvq.embedded.xs_limits import Limits
    from xen_shadowvq.embedded.xs_tree import Transaction


_READ_BYTES: Final = 16 * 1024


class Connection:
    """A non-blocking socket with its unsent answers and events. Every method returns at once."""

    def __init__(
        self, sock: socket.socket, domain: Domain, limits: Limits, on_unsent: Callable[[Connection], None]
    ) -> None:
        """`on_unsent` is told whenever there is something new to send."""
        self.sock = sock
        self._on_unsent = on_unsent
        self.transactions: dict[int, Transaction] = {}
        self.next_transaction_id = 1
        self.overflowed = False
        self._domain = domain
        self._pause_bytes = limits.unsent_pause_bytes
        self._unsent_bytes_max = limits.unsent_privileged_bytes_max if domain.privileged else limits.unsent_bytes_max
        self._received = MessageBuffer()
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._pending_events: set[bytes] = set()

    @property
    def domain(self) -> Domain:
        """Whose connection it is."""
        return self._domain

    @property
    def unsent_bytes(self) -> int:
        """Answers and events that the client has not taken yet."""
        return self._unsent_bytes

    @property
    def has_unsent(self) -> bool:
        """Whether the socket should be watched for room."""
        return bool(self._unsent)

    @property
    def paused(self) -> bool:
        """Whether the client has to read answers before it is listened to again."""
        return self._unsent_bytes > self._pause_bytes

    @property
    def has_request(self) -> bool:
        """Whether a whole request waits in the buffer."""
        return self._received.has_message()

    def receive(self) -> bool:
        """Read what is there, up to a bound; False at the end of the stream. Raises OSError."""
        try:
            data = self.sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return True
        self._received.feed(data)
        return bool(data)

    def next_request(self) -> Message | None:
        """The next whole request, or None. Raises FramingError."""
        return self._received.pop()

    def send_reply(self, message: Message) -> None:
        """Queue an answer; bounded because a paused connection is not served."""
        self._queue(message.encode())

    def send_event(self, message: Message) -> None:
        """Queue a watch event, unless the same one is still unsent. Too many unsent ones latch `overflowed`."""
        if self.overflowed:
            return
        data = message.encode()
        # An event says "look again", so a second one adds nothing; "@..." ones tell of different domains.
        if not message.payload.startswith(b"@"):
            if data in self._pending_events:
                return
            self._pending_events.add(data)
        self._queue(data)
        self.overflowed = self._unsent_bytes > self._unsent_bytes_max

    def send(self) -> None:
        """Write what the socket takes. Raises OSError."""
        while self._unsent:
            data = self._unsent[0]
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                return
            self._pending_events.discard(data)
            self._unsent_bytes -= sent
            if sent < len(data):
                self._unsent[0] = data[sent:]
                return
            self._unsent.popleft()

    def _queue(self, data: bytes) -> None:
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        self._on_unsent(self)
