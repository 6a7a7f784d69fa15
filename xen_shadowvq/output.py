# SPDX-License-Identifier: GPL-2.0-or-later
"""
The one way for text to reach a person, through a terminal, a log, or JSON that somebody prints: nothing in it may
control a terminal, or begin a line. Much of it is written by guests and backends: errors, names, statistics.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from itertools import accumulate
from typing import Any

import click

from xen_shadowvq.errors import ConfigError
from xenstore_schema import nodes

NODE_TEXT_BYTES = nodes.SvqBack.ERROR.bytes_max
"""As many bytes as a node for a sentence may have: half of what XenStore takes in one node."""


def printable(untrusted_text: str) -> str:
    """
    The text on one line. Control characters, line ends, characters that change the direction of writing, and lone
    surrogates become Python's escapes.
    """
    if untrusted_text.isprintable():
        return untrusted_text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in untrusted_text)


def node_text(untrusted_text: str, bytes_max: int = NODE_TEXT_BYTES) -> str:
    """
    The text as it may stand in a node: printable ASCII, where every other character is Python's escape; and at most
    `bytes_max` bytes of that, cut between characters. XenStore counts bytes, and refuses what has too many.
    """
    head = untrusted_text[:bytes_max]  # each character takes a byte at least
    if len(head) == len(untrusted_text) and head.isascii() and head.isprintable():
        return head
    pieces = [c if c.isascii() and c.isprintable() else c.encode("unicode_escape").decode() for c in head]
    ends = accumulate(len(piece) for piece in pieces)
    return "".join(piece for piece, end in zip(pieces, ends, strict=True) if end <= bytes_max)


def printable_block(untrusted_text: str) -> str:
    """Text that has lines of its own, such as a traceback: they are indented, so that none passes for one of ours."""
    return "\n".join(f"  {printable(line)}" for line in untrusted_text.splitlines())


def as_json(value: Any) -> str:
    """
    JSON with printable keys and values: people look at what `jq -r` shows, and some parsers refuse lone surrogates.
    """
    return json.dumps(_printable_in(value), indent=2)


def say(untrusted_text: str, *, err: bool = False, color: str | None = None) -> None:
    """
    Prints a line on standard output or, with `err`, standard error. ConfigError: standard output cannot be written.
    """
    _put(printable(untrusted_text), err=err, color=color)


def say_block(untrusted_text: str) -> None:
    """Prints several lines on standard error."""
    _put(printable_block(untrusted_text), err=True)


def say_json(value: Any) -> None:
    """Prints JSON on standard output. ConfigError as in `say`."""
    _put(as_json(value))


def _put(text: str, *, err: bool = False, color: str | None = None) -> None:
    """If standard error cannot be written, the exit status still says how the command ended."""
    try:
        click.secho(text, err=err, fg=color)
    except OSError as error:
        if error.errno == errno.EPIPE and not err:
            raise  # a reader that has seen enough; click ends quietly
        if not err:
            raise ConfigError(f"standard output cannot be written: {error.strerror}") from error


def hold_standard_descriptors() -> None:
    """
    Opens those of the three that are closed; else the next file or socket would take their place and get what libraries
    print.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def tolerate_any_text() -> None:
    """Escapes characters that a terminal's encoding does not have, too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _printable_in(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case dict():
            return {printable(str(key)): _printable_in(one) for key, one in value.items()}
        case list() | tuple():
            return [_printable_in(one) for one in value]
        case _:
            return value
