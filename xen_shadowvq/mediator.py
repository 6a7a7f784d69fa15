# SPDX-License-Identifier: GPL-2.0-or-later
"""The mediator service: shadow devices for every virtio pair that names this domain as its backend."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial

from xen_shadowvq.config import Config, Workers
from xen_shadowvq.domain import OwnDomain, Sim
from xen_shadowvq.engine import Worker
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.guests import GuestTable
from xen_shadowvq.lockfile import only_one
from xen_shadowvq.refused_shadow import RefusedShadowDevice
from xen_shadowvq.service import Service
from xen_shadowvq.shadow_device import Context, ShadowDevice
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes

PATIENCE_MAX_S = 30.0
"""How long requests in flight may take to complete when the service ends: less than a service manager waits."""


def check_processors(workers: Workers) -> None:
    """ConfigError: a worker cannot be pinned as configured, or more processors are listed than there are workers."""
    if len(workers.cpus) > workers.count:
        raise ConfigError(
            f"workers.cpus: got {len(workers.cpus)} processors, expected at most {workers.count} (workers.count)"
        )
    if not workers.cpus:
        return
    allowed = os.sched_getaffinity(0)
    try:
        for cpu in workers.cpus:
            os.sched_setaffinity(0, {cpu})  # of this thread: nothing else says whether the kernel lets one run there
    except OSError as error:
        there = ", ".join(map(str, sorted(allowed)))
        raise ConfigError(f"workers.cpus: no thread can run on processor {cpu}, expected some of {there}") from error
    finally:
        os.sched_setaffinity(0, allowed)


def _refused(context: Context, frontend_domid: int, device_id: int, reason: str) -> RefusedShadowDevice:
    path = nodes.virtio_back_path(mediator=context.domid, frontend=frontend_domid, device=device_id)
    return RefusedShadowDevice(context.store, context.hypervisor, path, frontend_domid, reason)


class Mediator:
    """
    The service with all it holds, as a context manager.

    Args:
        config: what to serve and how.
        sim: None on real Xen; else the embedded machine's directory and the id of our own domain.
        store: a connection to use, which stays open; None: one of its own.
    """

    def __init__(self, config: Config, sim: Sim | None = None, store: XenStore | None = None) -> None:
        self._stack = ExitStack()
        with ExitStack() as stack:
            domain = stack.enter_context(OwnDomain("mediator", sim, store))
            stack.enter_context(only_one("mediator", sim))
            self.hypervisor = domain.hypervisor
            self.workers = tuple(self._start_workers(config, stack))
            guests = GuestTable(self.hypervisor, config.limits.memory_gib_max)
            context = Context(domain.store, self.hypervisor, config, guests, self.workers, domain.domid)
            self.service = Service(
                domain.store,
                nodes.virtio_back_root(mediator=domain.domid),
                partial(ShadowDevice, context),
                partial(_refused, context),
                config.limits.devices,
                min(config.limits.drain_timeout_ms / 1000, PATIENCE_MAX_S),
            )
            for worker in self.workers:
                self.service.on_readable(worker.alert_fd)
            self._stack = stack.pop_all()

    def _start_workers(self, config: Config, stack: ExitStack) -> list[Worker]:
        check_processors(config.workers)
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
