# SPDX-License-Identifier: GPL-2.0-or-later
"""The mediator service: shadow devices for every virtio pair that names this domain as its backend."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from xen_shadowvq.config import Config
from xen_shadowvq.engine import Worker
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.guests import GuestTable
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.service import Service
from xen_shadowvq.shadow_device import Context, ShadowDevice
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes


def hypervisor_socket(directory: Path, domid: int) -> Path:
    """Where the embedded machine in `directory` listens for a domain."""
    return directory / f"hv-dom{domid}.sock"


def xenstore_socket(directory: Path, domid: int) -> Path:
    """Where the embedded XenStore in `directory` listens for a domain."""
    return directory / f"xenstore-dom{domid}.sock"


def own_domid(store: XenStore) -> int:
    """The domain that we are, as XenStore says."""
    text = store.read("domid")
    if text is None or not text.isdecimal():
        raise ConfigError(
            f"XenStore node `domid` of this domain is {text!r}, expected a domain id; is this a Xen domain?"
        )
    return int(text)


class Mediator:
    """
    The service with all it holds, as a context manager.

    Args:
        config: what to serve and how.
        sim: None on real Xen; else the embedded machine's directory and the domid to be there.
    """

    def __init__(self, config: Config, sim: tuple[Path, int] | None = None) -> None:
        self._stack = ExitStack()
        with ExitStack() as stack:
            store_path = str(xenstore_socket(*sim)) if sim else None
            store = stack.enter_context(XenStore.connect(store_path))
            self.hypervisor = stack.enter_context(Hypervisor("mediator", hypervisor_socket(*sim) if sim else None))
            domid = own_domid(store)
            self.hypervisor.set_domid(domid)
            self.workers = tuple(self._start_workers(config, stack))
            guests = GuestTable(self.hypervisor, config.limits.memory_gib_max)
            context = Context(store, self.hypervisor, config, guests, self.workers, domid)
            self.service = Service(
                store,
                nodes.virtio_back_root(mediator=domid),
                lambda frontend, device: ShadowDevice(context, frontend, device),
                config.limits.devices,
            )
            for worker in self.workers:
                self.service.on_readable(worker.alert_fd)
            self._stack = stack.pop_all()

    def _start_workers(self, config: Config, stack: ExitStack) -> list[Worker]:
        workers = []
        for index in range(config.workers.count):
            cpu = config.workers.cpus[index] if index < len(config.workers.cpus) else None
            worker = Worker(self.hypervisor, config.workers.poll_us, cpu)
            stack.callback(worker.close)
            workers.append(worker)
        return workers

    def __enter__(self) -> Mediator:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
