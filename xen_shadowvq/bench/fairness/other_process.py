# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontend beside the neighbour, in its own domain: busy and well-behaved, or hostile."""

from __future__ import annotations

import random
import sys
import threading
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from domU_frontend import blk
from domU_frontend.blk import PAGE, Request
from domU_frontend.frontend import Frontend
from xen_shadowvq import log
from xen_shadowvq.bench.fairness.assailant import PATIENCE_S, QUEUE_SIZE, Assailant
from xen_shadowvq.bench.fairness.attacks import ATTACKS, TARGETS, Attack
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.native import load
from xen_shadowvq.rpc import serve

BUSY = "busy"
"""The name of the well-behaved one."""

BUSY_DEPTH = 32
BUSY_LENGTHS = (4096, 16384, 65536)

_BUSY_PAGES = 8192
_BATCH = 512
_SECTOR = 512
_SETTLE_S = 0.05
_PAGES_PER_QUEUE = QUEUE_SIZE + 80  # our tables, and what the driver lays out


class BusyGuest:
    """Reads and writes of `BUSY_LENGTHS` bytes, always `BUSY_DEPTH` of them in flight."""

    def __init__(self, sim: tuple[Path, int]) -> None:
        self._frontend = Frontend(0, sim=sim, pages=_BUSY_PAGES)
        self._frontend.connect(PATIENCE_S)
        driver = self._frontend.driver
        chooser = random.Random(1)  # noqa: S311 - a mix of sizes
        sectors, base = self._frontend.geometry.sectors, driver.gpa(driver.data_first_page)
        places = driver.data_pages * PAGE // max(BUSY_LENGTHS)
        self._requests = []
        for turn in range(_BATCH):
            length = chooser.choice(BUSY_LENGTHS)
            sector = chooser.randrange((sectors * _SECTOR - length) // PAGE) * (PAGE // _SECTOR)
            buffer = base + turn % places * max(BUSY_LENGTHS)
            self._requests.append(Request(chooser.choice((blk.IN, blk.OUT)), sector, buffer, length))
        self._thread = threading.Thread()
        self._progress: Any = None
        self._failure = ""

    def begin(self) -> dict[str, Any]:
        """Begins to work, until `end`."""
        self._progress = self._frontend.driver.new_progress()
        self._thread = threading.Thread(target=self._run, args=(self._progress,))
        self._thread.start()
        return {}

    def end(self) -> dict[str, Any]:
        """Waits for what is in flight to come back, and returns what was done."""
        self._progress.stop = load("driver").lib.SVQ_DRV_STOP_DRAIN
        self._thread.join()
        if self._failure:
            raise ConfigError(self._failure)
        return {"requests": int(self._progress.requests_done), "bytes": int(self._progress.bytes_done)}

    def _run(self, progress: Any) -> None:
        while not progress.stop and not self._failure:
            for result in self._frontend.driver.run(self._requests, BUSY_DEPTH, progress):
                if result.status not in (blk.STATUS_OK, 255):
                    self._failure = f"a request of the busy guest ended with {result}"


class HostileGuest:
    """An attack on as many devices as it takes, with a thread for each."""

    def __init__(self, sim: tuple[Path, int], attack: Attack) -> None:
        self._attack = attack
        self._stop = threading.Event()
        self._failures: list[str] = []
        self._threads: list[threading.Thread] = []
        pages = 512 + attack.queues * _PAGES_PER_QUEUE
        if attack.devices * pages * PAGE > TARGETS:
            raise ConfigError(f"{attack.name}: its drivers need more than {TARGETS} bytes of memory")
        self._devices = []
        for number in range(attack.devices):
            frontend = Frontend(
                number, sim=sim, pages=pages, queues=attack.queues, queue_size=QUEUE_SIZE, first_gfn=number * pages
            )
            device = Assailant(frontend, attack.queues, attack.memory_mib << 20, self._stop.is_set)
            self._devices.append(device)

    def begin(self) -> dict[str, Any]:
        """Connects all devices and attacks, until `end`."""
        self._stop.clear()
        for device in self._devices:
            device.counts.clear()
            device.connect()
        self._threads = [threading.Thread(target=self._run, args=(device,)) for device in self._devices]
        for thread in self._threads:
            thread.start()
        self._stop.wait(_SETTLE_S)
        return {}

    def end(self) -> dict[str, Any]:
        """Ends the attack and closes all devices; returns what was done."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for device in self._devices:
            device.disconnect()
        if self._failures:
            raise ConfigError(*self._failures)
        return dict(sum((device.counts for device in self._devices), Counter()))

    def _run(self, device: Assailant) -> None:
        try:
            self._attack.run(device)
        except Exception as error:  # whatever it was, the benchmark must say so
            traceback.print_exc()
            self._failures.append(f"{type(error).__name__}: {error}")


def main() -> None:
    """usage: python -m xen_shadowvq.bench.fairness.other_process DIRECTORY DOMID NAME"""
    log.configure("info", "json", sys.stderr)
    directory, domid, name = sys.argv[1:]
    sim = Path(directory), int(domid)
    if name == BUSY:
        serve(BusyGuest(sim))
    else:
        serve(HostileGuest(sim, next(attack for attack in ATTACKS if attack.name == name)))


if __name__ == "__main__":
    main()
