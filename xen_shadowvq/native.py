# SPDX-License-Identifier: GPL-2.0-or-later
"""
The C libraries, through cffi.

cffi reads the very headers that the C was compiled from, so the two cannot drift apart; nothing is compiled against
Python, so building needs no Python headers. Calls release the GIL. Control plane only: no function that is called per
descriptor is called from here.
"""

from __future__ import annotations

import errno
import re
from functools import cache
from pathlib import Path
from typing import Any

import cffi

import xen_shadowvq
from xen_shadowvq.errors import HypervisorError

_HEADERS = {
    "hypervisor": ("svq_hv.h",),
    "mediator": ("svq_hv.h", "svq_sim.h", "svq.h"),
    "backend": ("svq_hv.h", "svq_sim.h", "svq_backend.h"),
    "driver": ("svq_hv.h", "svq_sim.h", "svq_ledger.h", "svq_driver.h"),
}
_PREPROCESSOR_LINE = re.compile(r"^\s*#.*$", re.MULTILINE)


def _declare(ffi: Any, library: str) -> None:
    for header in _HEADERS[library]:
        ffi.cdef(_PREPROCESSOR_LINE.sub("", (native_folder() / header).read_text()))


class Library:
    """One loaded library: `lib` has its functions and constants, `ffi` makes its structures."""

    def __init__(self, name: str) -> None:
        folder = native_folder()
        self.ffi: Any = cffi.FFI()
        _declare(self.ffi, name)
        self.lib: Any = self.ffi.dlopen(str(folder / f"libsvq_{name}.so"))

    def check(self, rc: int, call: str, domid: int | None = None) -> int:
        """Returns `rc` if it is >= 0; a negative one is -errno and becomes a HypervisorError."""
        if rc < 0:
            raise HypervisorError(call, domid, -rc)
        return rc


@cache
def constants(library: str) -> Any:
    """The constants of a library's headers, as attributes; the library itself is not loaded."""
    ffi = cffi.FFI()
    _declare(ffi, library)
    return ffi.dlopen(None)


@cache
def load(name: str) -> Library:
    """The library `mediator`, `backend` or `driver`, loaded once in a process."""
    return Library(name)


@cache
def native_folder() -> Path:
    """Where the built libraries and their headers are: inside the installed package."""
    for folder in xen_shadowvq.__path__:
        if (Path(folder) / "native" / "libsvq_mediator.so").exists():
            return Path(folder) / "native"
    raise FileNotFoundError(
        errno.ENOENT, "ShadowVQ's C libraries are not built; `make build` in the source tree makes them", "native"
    )
