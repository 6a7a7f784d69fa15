# SPDX-License-Identifier: GPL-2.0-or-later
"""The domain that a service or a driver runs in: its XenStore, its hypervisor, and its id."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from xen_shadowvq.errors import ConfigError
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.xenstore import XenStore

Sim = tuple[Path, int]
"""The embedded machine's directory, and the id of our own domain there."""


def hypervisor_socket(directory: Path, domid: int) -> Path:
    """Where the embedded machine in `directory` listens for a domain."""
    return directory / f"hv-dom{domid}.sock"


def xenstore_socket(directory: Path, domid: int) -> Path:
    """Where the embedded XenStore in `directory` listens for a domain."""
    return directory / f"xenstore-dom{domid}.sock"


def own_domid(store: XenStore) -> int:
    """The id of our own domain, as XenStore says."""
    text = store.read("domid")
    if text is None or not text.isdecimal():
        raise ConfigError(
            f"XenStore node `domid` of this domain is {text!r}, expected a domain id; is this a Xen domain?"
        )
    return int(text)


class OwnDomain:
    """
    A process's handles on the domain it runs in, as a context manager.

    Args:
        library: `mediator`, `backend` or `driver`, as for Hypervisor.
        sim: None on real Xen.
        store: a connection to use, which stays open; None: one of its own.
    """

    def __init__(self, library: str, sim: Sim | None, store: XenStore | None = None) -> None:
        with ExitStack() as stack:
            path = str(xenstore_socket(*sim)) if sim else None
            self.store = store or stack.enter_context(XenStore.connect(path))
            self.hypervisor = stack.enter_context(Hypervisor(library, hypervisor_socket(*sim) if sim else None))
            self.domid = own_domid(self.store)
            self.hypervisor.set_domid(self.domid)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
