# SPDX-License-Identifier: GPL-2.0-or-later
"""Every exception of ShadowVQ, named by who is at fault: the operator, a peer, XenStore, the hypervisor."""

from __future__ import annotations

import errno
import os

from xenstore_schema.errors import SHOWN_MAX, PeerProtocolError, ShadowVQError, shown  # the schema stands alone

__all__ = [
    "SHOWN_MAX",
    "XENSTORE_TROUBLE",
    "ConfigError",
    "DeviceBroken",
    "HypervisorError",
    "ImageBusy",
    "ImageError",
    "PeerProtocolError",
    "ShadowVQError",
    "XenStoreError",
    "XenStoreGone",
    "XenStoreTimeout",
    "shown",
]


class ConfigError(ShadowVQError):
    """The operator's configuration or request is wrong; `problems` has one sentence for each mistake."""

    def __init__(self, *problems: str) -> None:
        if not problems:
            raise ValueError("a ConfigError names at least one problem")
        super().__init__("\n".join(problems))
        self.problems = problems


class XenStoreError(ShadowVQError):
    """
    XenStore answered a request with an error; `errno` as in the errno module. `value_bytes`: how long the value was
    that was to be written, if one was.
    """

    def __init__(self, code: int, path: str, value_bytes: int = 0) -> None:
        super().__init__(f"XenStore refused {path}: {os.strerror(code)}")
        self.errno = code
        self.path = path
        self.value_bytes = value_bytes


class XenStoreGone(ShadowVQError):
    """The connection to XenStore broke; nothing is known about requests under way."""


class XenStoreTimeout(ShadowVQError):
    """XenStore did not answer in time; a change that was asked for may still happen."""


XENSTORE_TROUBLE = (XenStoreError, XenStoreTimeout)
"""Errors of a single request, which may not recur when it is repeated. XenStoreGone concerns all requests."""


_NO_PRIVILEGE = (
    "this domain has no privilege over that one. A mediator domain must be PV, and `deploy/set-target` must name "
    "its guest before it is first unpaused; or run the mediator in dom0"
)
_GNTALLOC_FULL = (
    "the kernel shares no more pages: raise its limit (`options xen_gntalloc limit=65536` in /etc/modprobe.d) or the "
    "domain's max_grant_frames"
)
_VERSION_2 = "its grant table has version 2: set max_grant_version = 1 in its configuration"
# What an operator can do about a failed call; the data plane's calls say why only by their errno.
_ADVICE = {
    ("grant_table_frames", errno.EPERM): _NO_PRIVILEGE,
    ("grant_table_frames", errno.EACCES): _NO_PRIVILEGE,
    ("guest_open", errno.EPERM): _NO_PRIVILEGE,
    ("guest_open", errno.EACCES): _NO_PRIVILEGE,
    ("grant_table_frames", errno.EPROTONOSUPPORT): _VERSION_2,
    ("guest_open", errno.EPROTONOSUPPORT): _VERSION_2,
    ("sweep", errno.EPERM): _NO_PRIVILEGE,
    ("sweep", errno.EACCES): _NO_PRIVILEGE,
    ("sweep", errno.EPROTONOSUPPORT): _VERSION_2,
    ("device_create", errno.ENOSPC): _GNTALLOC_FULL,
    ("queue_setup", errno.ENOSPC): _GNTALLOC_FULL,
}


class HypervisorError(ShadowVQError):
    """A call through the hypervisor seam failed; `errno` is positive, and `domid` is None if no domain is meant."""

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


class ImageBusy(ImageError):
    """Somebody else uses the image, in a way that rules out what was asked for."""


class DeviceBroken(ShadowVQError):
    """A device latched broken (DEVICE_NEEDS_RESET): `code` is the check that failed, `facts` what it saw."""

    def __init__(self, code: str, **facts: int | str) -> None:
        seen = ", ".join(f"{key} {value}" for key, value in facts.items())
        super().__init__(f"device broken: {code}" + (f" ({seen})" if seen else ""))
        self.code = code
        self.facts = facts
