# SPDX-License-Identifier: GPL-2.0-or-later
"""
What an idle mediator costs: many devices connected end to end, and not one request.

The measured mediator is the program that operators run, in a process of its own, in dom0. The embedded machine, the
backends and the frontends live in this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dom0_backend.backend import Backend
from domU_frontend import blk
from domU_frontend.frontend import Frontend
from xen_shadowvq import toolstack
from xen_shadowvq.bench.errors import BenchmarkFailed
from xen_shadowvq.dom0 import Dom0
from xen_shadowvq.domain import hypervisor_socket
from xen_shadowvq.embedded.machine import DomainSpec, Machine
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.new_device import Disk

FRONTENDS = 8
DEVICES_EACH = 8
SETTLE_S = 2.0
WINDOW_S = 5.0

_CASE = "idle"
_MEDIATOR = 0
_BACKENDS = (1, 2)  # XenStore allows a domain 128 watches: too few for one backend with all the devices
_FIRST_FRONTEND = 3
_FRONTEND_MIB = 16
_GRANT_FRAMES = 512
_PAGES_EACH = 256  # of a frontend's memory, for one device's driver
_IMAGE_BYTES = 1 << 20
_CONNECT_S = 60.0
_MIB_IN_KIB = 1024


def cpu_resolution_percent(window_s: float) -> float:
    """The least processor time that the kernel's clock ticks show, in percent of one core."""
    return 100 / os.sysconf("SC_CLK_TCK") / window_s


@dataclass(frozen=True)
class IdleCost:
    """
    The mediator's process while nothing happens. Sizes in MiB.

    `rss_mib` is all that is resident (VmRSS): its own memory (`anon_mib`), program and libraries (`file_mib`), and the
    memory that it shares with guests and the backend (`shared_mib`).
    """

    devices: int
    windows_s: float
    cpu_percent: list[float]  # of one core, one figure for each window
    rss_mib: list[float]
    anon_mib: float
    file_mib: float
    shared_mib: float


def measure(windows: int, on_window: Callable[[], None]) -> IdleCost:
    """
    Measures `windows` times, for `WINDOW_S` seconds each.

    Raises:
        BenchmarkFailed: the mediator did not start or did not stay up; its log is in the message.
        ConfigError: a device was not connected.
    """
    with ExitStack() as outlasting, ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shadowvq-bench-")))
        machine = stack.enter_context(Machine(directory / "machine"))
        # dom0 is more than its mediator: it must not count as dead before the machine itself stops
        outlasting.enter_context(Hypervisor("mediator", hypervisor_socket(machine.directory, _MEDIATOR)))
        for domid in _BACKENDS:
            machine.create_domain(DomainSpec(domid, f"backend-{domid}"))
        for domid in _frontend_domids():
            machine.create_domain(DomainSpec(domid, f"frontend-{domid}", _FRONTEND_MIB, _GRANT_FRAMES))
        process = stack.enter_context(_mediator(directory))
        for domid in _BACKENDS:
            stack.enter_context(_backend(machine.directory, domid))
        for domid in _frontend_domids():
            for number in range(DEVICES_EACH):
                _connect(machine, stack, domid, number, directory)
        time.sleep(SETTLE_S)
        return _watch(process, windows, on_window)


def _frontend_domids() -> range:
    return range(_FIRST_FRONTEND, _FIRST_FRONTEND + FRONTENDS)


@contextmanager
def _mediator(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "xen_shadowvq", "mediator", "--sim", str(directory / "machine")]
    with (directory / "mediator.log").open("w+b") as log:
        process = subprocess.Popen(
            [*command, "--domid", str(_MEDIATOR)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield process
            if process.poll() is not None:
                log.seek(0)
                raise BenchmarkFailed(_CASE, f"the mediator ended with status {process.returncode}", log.read())
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _backend(sim: Path, domid: int) -> Iterator[None]:
    with Backend((sim, domid)) as backend:
        thread = threading.Thread(target=backend.service.run, name="backend")
        thread.start()
        try:
            yield
        finally:
            backend.service.stop()
            thread.join()


def _connect(machine: Machine, stack: ExitStack, domid: int, number: int, directory: Path) -> None:
    """Connects one device and sends one request through it: idle means that it could work."""
    image = directory / f"{domid}-{number}.img"
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    backend, disk = _BACKENDS[domid % len(_BACKENDS)], Disk(str(image))
    with Dom0(machine.directory, machine.store) as dom0:
        device = toolstack.attach(dom0, frontend=domid, mediator=_MEDIATOR, backend=backend, disk=disk)
    frontend = stack.enter_context(
        Frontend(device, sim=(machine.directory, domid), pages=_PAGES_EACH, first_gfn=number * _PAGES_EACH)
    )
    frontend.connect(_CONNECT_S)
    buffer = frontend.driver.gpa(frontend.driver.data_first_page)
    (result,) = frontend.driver.run([blk.Request(blk.IN, buffer=buffer, length=blk.PAGE)], 1)
    if (result.error, result.status) != (0, blk.STATUS_OK):
        raise BenchmarkFailed(_CASE, f"device {number} of domain {domid} does not read: {result}", b"")


def _watch(process: subprocess.Popen[bytes], windows: int, on_window: Callable[[], None]) -> IdleCost:
    proc = Path("/proc") / str(process.pid)
    cpu_percent, rss_mib = [], []
    try:
        for _ in range(windows):
            before, start = _cpu_s(proc), time.monotonic()
            time.sleep(WINDOW_S)
            cpu_percent.append(100 * (_cpu_s(proc) - before) / (time.monotonic() - start))
            rss_mib.append(_status_mib(proc, "VmRSS"))
            on_window()
        parts = [_status_mib(proc, name) for name in ("RssAnon", "RssFile", "RssShmem")]
    except (OSError, StopIteration) as error:
        raise BenchmarkFailed(_CASE, "the mediator's process is gone", str(error).encode()) from error
    return IdleCost(FRONTENDS * DEVICES_EACH, WINDOW_S, cpu_percent, rss_mib, *parts)


def _cpu_s(proc: Path) -> float:
    """User and system time of all threads so far: fields 14 and 15 of proc_pid_stat(5)."""
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status_mib(proc: Path, name: str) -> float:
    lines = (proc / "status").read_text().splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kib) / _MIB_IN_KIB
