# SPDX-License-Identifier: GPL-2.0-or-later
"""One domain's handle on the hypervisor, real or embedded, as a context manager."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xen_shadowvq.errors import ConfigError
from xen_shadowvq.native import Library, constants, load


class Hypervisor:
    """
    An open `struct svq_hv` of one of the libraries.

    Args:
        library: `mediator`, `backend` or `driver`: whose handle it is (handles are not exchanged between them).
        sim_socket: the domain's socket of the embedded machine; None opens real Xen.
    Raises:
        ConfigError: there is no hypervisor; the message says what is missing.
    """

    def __init__(self, library: str, sim_socket: Path | None) -> None:
        self.library: Library = load(library)
        ffi, lib = self.library.ffi, self.library.lib
        out = ffi.new("struct svq_hv **")
        rc = lib.svq_hv_open_xen(out) if sim_socket is None else lib.svq_hv_open_sim(str(sim_socket).encode(), out)
        if rc < 0:
            raise ConfigError(ffi.string(lib.svq_hv_why()).decode())
        self.handle: Any = out[0]

    @property
    def name(self) -> str:
        """`sim` or `xen`."""
        return str(self.library.ffi.string(self.library.lib.svq_hv_name(self.handle)).decode())

    def counters(self) -> dict[str, int]:
        """What was asked of the hypervisor so far, and what is still held; see struct svq_hv_counters."""
        counters = self.library.ffi.new("struct svq_hv_counters *")
        self.library.lib.svq_hv_read_counters(self.handle, counters)
        return struct_to_dict(self.library, counters)

    def grant_table_frames(self, domid: int) -> int:
        """The most frames that the grant table of `domid` may have."""
        frames = self.library.ffi.new("uint32_t *")
        rc = self.library.lib.svq_hv_grant_table_frames(self.handle, domid, frames)
        self.library.check(rc, "grant_table_frames", domid)
        return int(frames[0])

    def set_domid(self, domid: int) -> None:
        """Tells real Xen's libraries who we are: they cannot know. The embedded machine knows, and checks."""
        self.library.check(self.library.lib.svq_hv_set_domid(self.handle, domid), "set_domid", domid)

    def close(self) -> None:
        """Releases all that the handle holds. Safe to call twice."""
        if self.handle is not None:
            self.library.lib.svq_hv_close(self.handle)
            self.handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def grants_per_frame() -> int:
    """Entries in a page of a grant table."""
    return int(constants("hypervisor").SVQ_GRANTS_PER_FRAME)


def struct_to_dict(library: Library, pointer: Any) -> dict[str, int]:
    """The integer fields of a C structure, by name."""
    fields = library.ffi.typeof(pointer).item.fields
    return {name: int(getattr(pointer, name)) for name, _ in fields}
