# SPDX-License-Identifier: GPL-2.0-or-later
"""The XenStore wire format: message header, operation numbers, error names and payload strings (xen/io/xs_wire.h)."""

from __future__ import annotations

import enum
import errno
import struct
from dataclasses import dataclass
from typing import Final

HEADER: Final = struct.Struct("=IIII")
PAYLOAD_BYTES_MAX: Final = 4096
DOMID_FIRST_RESERVED: Final = 0x7FF0
DOMID_SELF: Final = 0x7FF0


class Op(enum.IntEnum):
    """Message types; 20 was XS_RESTRICT, which is gone."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


# The only errors that have a name on the wire; any other is sent as EINVAL.
_ERROR_NAMES: Final = {
    number: errno.errorcode[number].encode()
    for number in (
        errno.EINVAL, errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENOMEM, errno.ENOSPC, errno.EIO,
        errno.ENOTEMPTY, errno.ENOSYS, errno.EROFS, errno.EBUSY, errno.EAGAIN, errno.EISCONN, errno.E2BIG, errno.EPERM,
    )
}  # fmt: skip


class XsError(Exception):
    """A request is refused through the client's fault; the client gets `errno` by name in an ERROR reply."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


class FramingError(Exception):
    """A client announced a payload above 4096 bytes: the stream has no message boundary any more."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, either way; `type` is a plain int because a client may send any."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes

    def encode(self) -> bytes:
        """Header and payload as they go over the wire."""
        return HEADER.pack(self.type, self.req_id, self.tx_id, len(self.payload)) + self.payload


class MessageBuffer:
    """Collects the bytes of one stream and cuts them into messages; never holds more than was fed."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Append bytes as they came from the socket."""
        self._data += data

    def pop(self) -> Message | None:
        """The next whole message, or None. Raises FramingError on an oversized length."""
        if len(self._data) < HEADER.size:
            return None
        kind, req_id, tx_id, length = HEADER.unpack_from(self._data)
        if length > PAYLOAD_BYTES_MAX:
            raise FramingError(length)
        end = HEADER.size + length
        if len(self._data) < end:
            return None
        payload = bytes(self._data[HEADER.size : end])
        del self._data[:end]
        return Message(kind, req_id, tx_id, payload)

    def has_message(self) -> bool:
        """Whether pop() would return a message or raise."""
        if len(self._data) < HEADER.size:
            return False
        length: int = HEADER.unpack_from(self._data)[3]
        return length > PAYLOAD_BYTES_MAX or len(self._data) >= HEADER.size + length


def error_reply(request: Message, number: int) -> Message:
    """The ERROR answer to a request."""
    name = _ERROR_NAMES.get(number, b"EINVAL")
    return Message(Op.ERROR, request.req_id, request.tx_id, name + b"\0")


def reply(request: Message, payload: bytes) -> Message:
    """The answer to a request; one that does not fit becomes E2BIG, as in xenstored."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        return error_reply(request, errno.E2BIG)
    return Message(request.type, request.req_id, request.tx_id, payload)


def strings(payload: bytes) -> list[bytes]:
    """Every NUL-terminated string of a payload; bytes after the last NUL are left out."""
    return payload.split(b"\0")[:-1]


def one_string(payload: bytes) -> bytes:
    """The payload's only string. Raises XsError EINVAL unless its only NUL is the last byte."""
    if not payload or payload.find(b"\0") != len(payload) - 1:
        raise XsError(errno.EINVAL)
    return payload[:-1]


def number(text: bytes) -> int:
    """A decimal of at most ten digits, else XsError EINVAL (xenstored's atoi() would read garbage as 0)."""
    if not text.isdigit() or len(text) > 10:
        raise XsError(errno.EINVAL)
    return int(text)
