# SPDX-License-Identifier: GPL-2.0-or-later
"""The backend service: block devices for every svq pair that names this domain as its backend."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from dom0_backend.device import BackendContext, BackendDevice
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.mediator import hypervisor_socket, own_domid, xenstore_socket
from xen_shadowvq.service import Service
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes

DEVICES_MAX = 1024


class Backend:
    """
    The service with all it holds, as a context manager.

    Args:
        sim: None on real Xen; else the embedded machine's directory and the domid to be there.
    """

    def __init__(self, sim: tuple[Path, int] | None = None) -> None:
        self.devices: dict[tuple[int, int], BackendDevice] = {}
        self._stack = ExitStack()
        with ExitStack() as stack:
            store = stack.enter_context(XenStore.connect(str(xenstore_socket(*sim)) if sim else None))
            self.hypervisor = stack.enter_context(Hypervisor("backend", hypervisor_socket(*sim) if sim else None))
            domid = own_domid(store)
            self.hypervisor.set_domid(domid)
            self._context = BackendContext(store, self.hypervisor, domid)
            self.service = Service(store, nodes.svq_back_root(backend=domid), self._make, DEVICES_MAX)
            self._stack = stack.pop_all()

    def _make(self, mediator_domid: int, handle: int) -> BackendDevice:
        device = BackendDevice(self._context, mediator_domid, handle)
        device.serve_in(self.service)
        self.devices[mediator_domid, handle] = device
        return device

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
