# SPDX-License-Identifier: GPL-2.0-or-later
"""The backend service: block devices for every svq pair that names this domain as its backend."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial

from dom0_backend.config import BackendConfig
from dom0_backend.context import BackendContext
from dom0_backend.device import BackendDevice
from xen_shadowvq.domain import OwnDomain, Sim
from xen_shadowvq.lockfile import only_one
from xen_shadowvq.log import get_logger
from xen_shadowvq.refused import Refused
from xen_shadowvq.service import Service
from xenstore_schema import nodes

DEVICES_MAX = 1024
PATIENCE_S = 10.0
"""How long requests in flight may take to end when the service ends."""


class Backend:
    """
    The service with all it holds, as a context manager.

    Args:
        sim: None on real Xen; else the embedded machine's directory and the id of our own domain.
        config: None: the defaults.
    """

    def __init__(self, sim: Sim | None = None, config: BackendConfig | None = None) -> None:
        self.devices: dict[tuple[int, int], BackendDevice] = {}
        self._stack = ExitStack()
        with ExitStack() as stack:
            domain = stack.enter_context(OwnDomain("backend", sim))
            self.hypervisor = domain.hypervisor
            stack.enter_context(only_one("backend", sim))
            self._alert_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(os.close, self._alert_fd)
            alert = partial(os.eventfd_write, self._alert_fd, 1)
            self._context = BackendContext(
                domain.store, domain.hypervisor, domain.domid, alert, config or BackendConfig()
            )
            root = nodes.svq_back_root(backend=domain.domid)
            self.service = Service(
                domain.store,
                root,
                self._make,
                self._make_refused,
                DEVICES_MAX,
                PATIENCE_S,
                limit="no backend takes more",
            )
            self.service.on_readable(self._alert_fd)
            self._stack = stack.pop_all()

    def _make(self, mediator_domid: int, handle: int) -> BackendDevice:
        device = BackendDevice(self._context, mediator_domid, handle)
        device.serve_in(self.service)
        self.devices[mediator_domid, handle] = device
        return device

    def _make_refused(self, mediator_domid: int, handle: int, reason: str) -> Refused:
        path = nodes.svq_back_path(backend=self._context.domid, mediator=mediator_domid, handle=handle)
        return Refused(self._context.store, path, reason)

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        hanging = [device.name for device in self._context.images.values()]
        if hanging:  # their threads go on with what would be taken apart here; the end of the process ends them
            get_logger().error("images_hang", devices=hanging)
            self._stack.pop_all()
        self._stack.close()
