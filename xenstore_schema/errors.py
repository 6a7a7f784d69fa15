# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong with a node, and how a peer's value may be shown; the base of all exceptions of ShadowVQ."""

from __future__ import annotations

SHOWN_MAX = 64  # characters of a peer's value that an error message repeats


def shown(untrusted_value: str | bytes | None) -> str:
    """A peer's value as it may stand in a log line: escaped, ASCII only, cut after `SHOWN_MAX` characters."""
    if untrusted_value is None:
        return "(absent)"
    if len(untrusted_value) <= SHOWN_MAX:
        return ascii(untrusted_value)
    return f"{untrusted_value[:SHOWN_MAX]!a}... ({len(untrusted_value)} long)"


class ShadowVQError(Exception):
    """Base of all that this package raises on purpose."""


class PeerProtocolError(ShadowVQError):
    """A peer wrote something that the protocol forbids. Only that peer's device may suffer for it."""

    def __init__(self, node: str, untrusted_value: str | bytes | None, expected: str) -> None:
        super().__init__(f"{node}: got {shown(untrusted_value)}, expected {expected}")
        self.node = node
        self.untrusted_value = untrusted_value
        self.expected = expected
