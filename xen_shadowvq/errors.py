# SPDX-License-Identifier: GPL-2.0-or-later
"""Every exception of ShadowVQ, named by who is at fault: the operator, a peer, XenStore, the hypervisor."""

from __future__ import annotations

import errno
import os

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


class ConfigError(ShadowVQError):
    """The operator's configuration or request is wrong; `problems` has one sentence for each mistake."""

    def __init__(self, *problems: str) -> None:
        if not problems:
            raise ValueError("a ConfigError names at least one problem")
        super().__init__("\n".join(problems))
        self.problems = problems


class PeerProtocolError(ShadowVQError):
    """A peer wrote something that the protocol forbids. Only that peer's device may suffer for it."""

    def __init__(self, node: str, untrusted_value: str | bytes | None, expected: str) -> None:
        super().__init__(f"{node}: got {shown(untrusted_value)}, expected {expected}")
        self.node = node
        self.untrusted_value = untrusted_value
        self.expected = expected


class XenStoreError(ShadowVQError):
    """XenStore answered a request with an error; `errno` as in the errno module."""

    def __init__(self, code: int, path: str) -> None:
        super().__init__(f"XenStore refused {path}: {os.strerror(code)}")
        self.errno = code
        self.path = path


class XenStoreGone(ShadowVQError):
    """The connection to XenStore broke; nothing is known about requests under way."""


class XenStoreTimeout(ShadowVQError):
    """XenStore did not answer in time."""


_NO_PRIVILEGE = (
    "this domain has no privilege over that one. A mediator domain has to be PV, and `deploy/set-target` has to name "
    "its guest before it first runs; or run the mediator in dom0"
)
_GNTALLOC_FULL = (
    "the kernel shares no more pages: raise its limit, `options xen_gntalloc limit=65536` in /etc/modprobe.d, or the "
    "domain's max_grant_frames"
)
_VERSION_2 = "its grant table has version 2: set max_grant_version = 1 in its configuration"
# What an operator can do about a call's answer; calls of the data plane say why by their errno alone.
_ADVICE = {
    ("grant_table_frames", errno.EPERM): _NO_PRIVILEGE,
    ("grant_table_frames", errno.EACCES): _NO_PRIVILEGE,
    ("guest_open", errno.EPERM): _NO_PRIVILEGE,
    ("guest_open", errno.EACCES): _NO_PRIVILEGE,
    ("grant_table_frames", errno.EPROTONOSUPPORT): _VERSION_2,
    ("guest_open", errno.EPROTONOSUPPORT): _VERSION_2,
    ("device_create", errno.ENOSPC): _GNTALLOC_FULL,
    ("queue_setup", errno.ENOSPC): _GNTALLOC_FULL,
}


class HypervisorError(ShadowVQError):
    """A call through the hypervisor seam failed; `errno` is positive, `domid` None if no domain is meant."""

    def __init__(self, call: str, domid: int | None, code: int) -> None:
        about = "" if domid is None else f" for domain {domid}"
        advice = _ADVICE.get((call, code))
        super().__init__(f"{call}{about} failed: {os.strerror(code)}" + (f"; {advice}" if advice else ""))
        self.call = call
        self.domid = domid
        self.errno = code


class ImageError(ShadowVQError):
    """The image file or block device behind a backend cannot be used."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class DeviceBroken(ShadowVQError):
    """A device latched broken (DEVICE_NEEDS_RESET): `code` is the check that failed, `facts` what it saw."""

    def __init__(self, code: str, **facts: int | str) -> None:
        seen = ", ".join(f"{key} {value}" for key, value in facts.items())
        super().__init__(f"device broken: {code}" + (f" ({seen})" if seen else ""))
        self.code = code
        self.facts = facts
