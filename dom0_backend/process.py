# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's backend domain: the ordinary backend service, and beside it an attacker who tries what it can reach."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

from dom0_backend.backend import Backend
from dom0_backend.keep import Keeper
from dom0_backend.probe import Prober
from xen_shadowvq import log
from xen_shadowvq.domain import hypervisor_socket
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.rpc import serve

WAIT_S = 20.0


class BackendProcess:
    """What the demo can ask of the backend. Return values are plain JSON."""

    def __init__(self, backend: Backend, attacker: Hypervisor) -> None:
        self._backend = backend
        self._prober, self._keeper = Prober(attacker), Keeper(attacker)

    def hold(self, on: bool) -> dict[str, Any]:
        """Holds requests, or lets them continue."""
        self._device().hold(on)
        return {}

    def wait_held(self, requests: int) -> dict[str, Any]:
        """
        Waits until that many requests are held; returns the number and bytes of their buffers as the backend sees them.
        """
        deadline = time.monotonic() + WAIT_S
        while self._device().stats()["held_requests"] < requests:
            if time.monotonic() > deadline:
                raise ConfigError(f"{requests} requests did not arrive within {WAIT_S:g} s")
            time.sleep(0.005)
        parts = self._device().live_parts()
        return {"parts": len(parts), "bytes": sum(part.length for part in parts)}

    def probe(self, frontend: int, frames: int, grefs: int, mediator: int, mediator_grefs: int) -> dict[str, Any]:
        """Tries every page and every grant reference; see dom0_backend.probe."""
        return self._prober.probe(frontend, frames, grefs, mediator, mediator_grefs).as_json()

    def keep(self, frontend: int, grefs: int, count: int) -> dict[str, Any]:
        """Maps some of the pages that are granted now, and keeps them."""
        return {"pages": self._keeper.keep(frontend, range(grefs), count)}

    def scribble(self) -> dict[str, Any]:
        """Writes over what it keeps."""
        return {"pages": self._keeper.scribble()}

    def see(
        self, frontend: int, frames: int, grefs: int, mediator: int, mediator_grefs: int, seed: int
    ) -> dict[str, Any]:
        """Frames of the frontend of which it sees tags with that seed, in any way."""
        seen = self._prober.see(frontend, frames, range(grefs), mediator, mediator_grefs, seed)
        return {"frames": sorted(seen | self._keeper.see(seed))}

    def let_go(self) -> dict[str, Any]:
        """Unmaps what it kept."""
        self._keeper.let_go()
        return {}

    def stats(self) -> dict[str, Any]:
        """The block device's counters, and the domain's own account of its hypervisor calls."""
        return {**self._device().stats(), "hypervisor": self._backend.hypervisor.counters()}

    def _device(self) -> Any:
        for device in self._backend.devices.values():
            if device.device is not None:
                return device.device
        raise ConfigError("the backend has no connected device")


def main() -> None:
    """usage: python -m dom0_backend.process DIRECTORY DOMID"""
    log.configure("info", "json", sys.stderr)
    directory, domid = sys.argv[1:]
    socket = hypervisor_socket(Path(directory), int(domid))
    with Backend((Path(directory), int(domid))) as backend, Hypervisor("backend", socket) as attacker:
        loop = threading.Thread(target=backend.service.run)
        loop.start()
        try:
            serve(BackendProcess(backend, attacker))
        finally:
            backend.service.stop()
            loop.join()


if __name__ == "__main__":
    main()
