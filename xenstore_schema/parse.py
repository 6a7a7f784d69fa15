# SPDX-License-Identifier: GPL-2.0-or-later
"""
Strict readers of untrusted text, one for each form that a node's value may have.

Each returns None for text that is not of its form; the caller turns that into an error that names the node. The text
may be anything that XenStore can hold: only bounded work is done on it before its length is known to be sane.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

TEXT_BYTES_MAX = 4096  # XENSTORE_PAYLOAD_MAX: no value can be longer
PATH_BYTES_MAX = 3072  # XENSTORE_ABS_PATH_MAX

# Canonical only: a leading zero is octal to some C readers, so two sides might read two numbers.
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}", re.ASCII)
_PRINTABLE = re.compile(r"[\x20-\x7e]+")
_HEX = re.compile(r"(?:[0-9a-f]{2})+")


def decimal(untrusted: str, low: int, high: int) -> int | None:
    """A number from `low` to `high`, in decimal without sign, blanks or leading zeros."""
    if len(untrusted) > 20 or not _DECIMAL.fullmatch(untrusted):
        return None
    value = int(untrusted)
    return value if low <= value <= high else None


def u32s(untrusted: str, count_max: int) -> tuple[int, ...] | None:
    """1 to `count_max` numbers of 32 bits in decimal, with one blank between them."""
    if len(untrusted) > 11 * count_max:
        return None
    numbers = [decimal(word, 0, 2**32 - 1) for word in untrusted.split(" ")]
    known = tuple(number for number in numbers if number is not None)
    return known if len(known) == len(numbers) <= count_max else None


def boolean(untrusted: str) -> bool | None:
    """`0` or `1`."""
    return {"0": False, "1": True}.get(untrusted)


def text(untrusted: str, bytes_max: int) -> str | None:
    """1 to `bytes_max` printable ASCII characters."""
    return untrusted if len(untrusted) <= bytes_max and _PRINTABLE.fullmatch(untrusted) else None


def path(untrusted: str) -> str | None:
    """An absolute path in printable ASCII."""
    fits = 2 <= len(untrusted) <= PATH_BYTES_MAX and untrusted[0] == "/"
    return untrusted if fits and _PRINTABLE.fullmatch(untrusted) else None


def hexadecimal(untrusted: str, bytes_max: int) -> bytes | None:
    """1 to `bytes_max` bytes, each as two lower-case hexadecimal digits."""
    if len(untrusted) > 2 * bytes_max or not _HEX.fullmatch(untrusted):
        return None
    return bytes.fromhex(untrusted)


def json_object(untrusted: str, bytes_max: int) -> dict[str, Any] | None:
    """A JSON object in at most `bytes_max` printable ASCII characters; NaN and infinities are not JSON."""
    if text(untrusted, bytes_max) is None:
        return None
    try:
        value = json.loads(untrusted, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
