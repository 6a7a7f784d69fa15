# SPDX-License-Identifier: GPL-2.0-or-later
"""
The embedded machine with a mediator of one worker, and everybody else in a process and a domain of its own: the
neighbour with its own backend, the busy guest, and one hostile guest for each attack.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from xen_shadowvq import devices, toolstack
from xen_shadowvq.bench.errors import BenchmarkFailed
from xen_shadowvq.bench.fairness import load
from xen_shadowvq.bench.fairness.attacks import ATTACKS, Attack
from xen_shadowvq.bench.fairness.other_process import BUSY
from xen_shadowvq.dom0 import Dom0
from xen_shadowvq.domain import hypervisor_socket
from xen_shadowvq.embedded.machine import DomainSpec, Machine
from xen_shadowvq.guests import GUEST_OWN_FRAMES, gfn_limit
from xen_shadowvq.hypervisor import Hypervisor, grants_per_frame
from xen_shadowvq.new_device import Disk
from xen_shadowvq.rpc import Child, ChildFailed

CASE = "fairness"

_MEDIATOR, _NEIGHBOURS_BACKEND, _OTHERS_BACKEND, _NEIGHBOUR, _BUSY, _FIRST_HOSTILE = range(6)
_MEMORY_MIB = 64
_IMAGE_BYTES = 64 << 20
_TMPFS = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
_CONNECT_S = 60.0
_MODULE = "xen_shadowvq.bench.fairness"


@dataclass(frozen=True)
class Stage:
    """What measuring needs to know."""

    neighbour: Child
    others: dict[str, Child]  # by the name of the attack, and BUSY
    processors: load.Processors
    precedence: load.Precedence
    mediator: int  # process
    worker: int  # thread
    processes: tuple[int, ...]  # all of ours but the mediator

    def meter(self) -> load.Meter:
        """A meter of how the processors are shared from now on."""
        return load.Meter(self.processors, self.mediator, self.worker, self.processes)


@contextmanager
def open_stage() -> Iterator[Stage]:
    """
    Builds everything, with the neighbour and the busy guest connected. BenchmarkFailed, with the service's log: a
    service did not start or did not stay up.
    """
    with ExitStack() as outlasting, ExitStack() as stack:
        processors = stack.enter_context(load.keep_off_the_worker())
        where = str(_TMPFS) if _TMPFS.is_dir() else None
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shadowvq-fairness-", dir=where)))
        machine = stack.enter_context(Machine(directory / "machine"))
        # dom0 is more than its mediator: it must not count as dead before the machine itself stops
        outlasting.enter_context(Hypervisor("mediator", hypervisor_socket(machine.directory, _MEDIATOR)))
        _make_domains(machine)
        config = directory / "mediator.yaml"
        config.write_text(f"workers:\n  count: 1\n  cpus: [{processors.worker}]\n")
        mediator = stack.enter_context(_service(directory, "mediator", _MEDIATOR, ["--config", str(config)]))
        backends = [
            stack.enter_context(_service(directory, "backend", domid, []))
            for domid in (_NEIGHBOURS_BACKEND, _OTHERS_BACKEND)
        ]
        dom0 = stack.enter_context(Dom0(machine.directory, machine.store))
        neighbour, others = _start_guests(dom0, directory, stack)
        neighbour.call("connect")
        worker = load.pinned_thread(mediator.pid, processors.worker)
        first = [backends[0].pid, neighbour.process.pid]
        after = [backends[1].pid, *(child.process.pid for child in others.values())]
        precedence = _arrange(first, after, worker)
        try:
            yield Stage(neighbour, others, processors, precedence, mediator.pid, worker, (os.getpid(), *first, *after))
        except ChildFailed as error:
            raise BenchmarkFailed(CASE, str(error), (directory / f"mediator-{_MEDIATOR}.log").read_bytes()) from error


def _make_domains(machine: Machine) -> None:
    machine.create_domain(DomainSpec(_NEIGHBOURS_BACKEND, "neighbours-backend"))
    machine.create_domain(DomainSpec(_OTHERS_BACKEND, "others-backend"))
    machine.create_domain(_frontend(_NEIGHBOUR, "neighbour", _MEMORY_MIB))
    machine.create_domain(_frontend(_BUSY, "busy", _MEMORY_MIB))
    for attack, domid in _hostile_domains():
        machine.create_domain(_frontend(domid, attack.name, attack.memory_mib))


def _frontend(domid: int, name: str, memory_mib: int) -> DomainSpec:
    """A frontend with as large a grant table as a direct window takes; all of its memory is sparse."""
    frames = -(-gfn_limit(memory_mib * 1024) // grants_per_frame()) + GUEST_OWN_FRAMES
    return DomainSpec(domid, name, memory_mib, frames)


def _hostile_domains() -> Iterator[tuple[Attack, int]]:
    return zip(ATTACKS, range(_FIRST_HOSTILE, _FIRST_HOSTILE + len(ATTACKS)), strict=True)


def _start_guests(dom0: Dom0, directory: Path, stack: ExitStack) -> tuple[Child, dict[str, Child]]:
    sim = str(directory / "machine")

    def start(name: str, module: str, *arguments: str) -> Child:
        log = directory / f"{name}.log"
        return stack.enter_context(Child(name, f"{_MODULE}.{module}", [sim, *arguments], log))

    device = _attach(dom0, directory, _NEIGHBOUR, _NEIGHBOURS_BACKEND)
    neighbour = start("neighbour", "neighbour_process", str(_NEIGHBOUR), str(device))
    _attach(dom0, directory, _BUSY, _OTHERS_BACKEND)
    others = {BUSY: start(BUSY, "other_process", str(_BUSY), BUSY)}
    for attack, domid in _hostile_domains():
        for _ in range(attack.devices):
            _attach(dom0, directory, domid, _OTHERS_BACKEND, attack.queues)
        others[attack.name] = start(attack.name, "other_process", str(domid), attack.name)
    return neighbour, others


def _attach(dom0: Dom0, directory: Path, domid: int, backend: int, queues: int = 1) -> int:
    image = directory / f"{domid}.img"
    image.touch()
    os.truncate(image, _IMAGE_BYTES)
    disk = Disk(str(image), queues=queues)
    device = toolstack.attach(dom0, frontend=domid, mediator=_MEDIATOR, backend=backend, disk=disk)
    if not devices.wait_until(lambda: devices.find(dom0, domid, device).state == "InitWait", _CONNECT_S):
        raise BenchmarkFailed(CASE, f"device {device} of domain {domid} is not offered", b"")
    return device


def _arrange(first: Iterable[int], after: Iterable[int], worker: int) -> load.Precedence:
    """Orders the processes `first` and `after`, the worker, and in this process the hypervisor before XenStore."""
    precedence = load.Precedence.possible()
    python = {thread.native_id for thread in threading.enumerate()}
    own = load.threads(os.getpid())
    for thread in (worker, *chain(*map(load.threads, first)), *(t for t in own if t not in python)):
        precedence.first(thread)
    for thread in (*chain(*map(load.threads, after)), *(t for t in own if t in python)):
        precedence.after(thread)
    return precedence


@contextmanager
def _service(directory: Path, kind: str, domid: int, options: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "xen_shadowvq", kind, "--sim", str(directory / "machine"), "--domid", str(domid)]
    with (directory / f"{kind}-{domid}.log").open("w+b") as log:
        process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        finally:
            ended = process.poll()
            process.terminate()
            process.wait()
        if ended is not None:
            log.seek(0)
            raise BenchmarkFailed(CASE, f"the {kind} ended with status {ended}", log.read())
