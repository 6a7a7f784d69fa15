# SPDX-License-Identifier: GPL-2.0-or-later
"""An embedded machine in the test process, with the mediator, the backend and frontends as processes of their own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest

from xen_shadowvq import toolstack
from xen_shadowvq.embedded.machine import PRIVILEGE_ALL, PRIVILEGE_NONE, DomainSpec, Machine
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.mediator import hypervisor_socket
from xen_shadowvq.toolstack import Attached, Disk
from xen_shadowvq.xenstore import XenStore

from .command import REPOSITORY

MEDIATOR, BACKEND, FRONTEND, OTHER = 1, 2, 3, 4
DEADLINE_S = 30.0
POLL_S = 0.01
MIB = 1 << 20
FRONTEND_MIB = 16
LOG_LINES_SHOWN = 12


class Service:
    """A process `python -m ...` whose log, one JSON object a line, goes to a file."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name = name
        self.log_path = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdin=subprocess.PIPE, stderr=stderr, cwd=REPOSITORY
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event so far."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [line for line in parsed if line.get("event") == name]

    def fds(self) -> int:
        """File descriptors that it has open, without the embedded machine's two for each domain that it ever met."""
        links = [os.readlink(link) for link in Path(f"/proc/{self.process.pid}/fd").iterdir()]  # noqa: PTH115
        return sum(not link.startswith(("/memfd:svq-ram", "/memfd:svq-grants")) for link in links)

    def stop(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and its end."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def terminate(self) -> int:
        """SIGTERM; answers the exit status."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """Ends it, however it is."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.process.stdin:
            self.process.stdin.close()


class World:
    """The machine and everybody in it, as a context manager. Every wait of it ends with the state that was found."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.services: list[Service] = []
        self.directory = Path(tempfile.mkdtemp(prefix="svq"))  # short: the name of a socket may have 107 bytes only
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.machine = self._stack.enter_context(Machine(self.directory / "m"))
        self.mediator: Service
        self.backend: Service

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for service in reversed(self.services):
            service.close()
        self._stack.close()

    @property
    def sim(self) -> Path:
        """The machine's directory."""
        return self.directory / "m"

    @property
    def store(self) -> XenStore:
        """dom0's connection."""
        return self.machine.store

    # ---- domains and services --------------------------------------------------------------------------------------

    def add_domain(self, domid: int, memory_mib: int = FRONTEND_MIB) -> None:
        """A domain; the mediator's may do everything, all others nothing."""
        privilege = PRIVILEGE_ALL if domid == MEDIATOR else PRIVILEGE_NONE
        self.machine.create_domain(DomainSpec(domid, f"dom{domid}", memory_mib, privilege=privilege))

    def keep_alive(self, domid: int) -> None:
        """The domain outlives its processes from now on, as one does whose service alone crashes."""
        self._stack.enter_context(Hypervisor("driver", hypervisor_socket(self.sim, domid)))

    def start_mediator(self, config: str = "", directory: Path | None = None) -> Service:
        """Starts it and waits until it serves."""
        path = self.directory / "mediator.yaml"
        path.write_text(config or "{}\n")
        self.mediator = self._start("mediator", MEDIATOR, ["--config", str(path)], directory or self.sim)
        return self.mediator

    def start_backend(self) -> Service:
        """Starts it and waits until it serves."""
        self.backend = self._start("backend", BACKEND, [], self.sim)
        return self.backend

    def _start(self, kind: str, domid: int, options: list[str], directory: Path) -> Service:
        arguments = ["xen_shadowvq", kind, "--sim", str(directory), "--domid", str(domid), *options]
        return self.start_process(kind, arguments, ready="service_ready")

    def start_process(self, name: str, arguments: list[str], ready: str) -> Service:
        """Starts `python -m` and waits for an event in its log."""
        log = self.directory / f"{len(self.services)}-{name}.log"
        service = Service(name, arguments, log)
        self.services.append(service)
        self.until(lambda: service.events(ready) or service.process.poll() is not None, f"{ready} of {name}")
        if service.process.poll() is not None:
            self.fail(f"{name} ended with status {service.process.returncode}")
        return service

    def start_child(self, domid: int, device: int) -> Service:
        """A frontend as a process of its own, which does I/O and compares until it is ended."""
        arguments = ["tests.system.frontend_child", str(self.sim), str(domid), str(device)]
        return self.start_process(f"frontend{domid}", arguments, ready="frontend_connected")

    # ---- devices -----------------------------------------------------------------------------------------------------

    def image(self, name: str, mib: int = 4) -> Path:
        """A raw image with random bytes, the same for the same name."""
        path = self.directory / name
        path.write_bytes(random.Random(name).randbytes(mib * MIB))
        return path

    def attach(self, image: Path, frontend: int = FRONTEND, *, device: int | None = None, **disk: Any) -> int:
        """Attaches without waiting; answers the device id."""
        spec = Disk(str(image), **disk)
        return toolstack.attach(
            self.store, frontend=frontend, mediator=MEDIATOR, backend=BACKEND, disk=spec, device=device
        )

    def found(self, device: int, frontend: int = FRONTEND) -> Attached:
        """The device as XenStore shows it."""
        found = toolstack.find(self.store, frontend, device, MEDIATOR)
        return found if found is not None else self.fail(f"domain {frontend} has no device {device}")

    def detach(self, device: int, frontend: int = FRONTEND) -> None:
        """Detaches and waits for it."""
        toolstack.detach(self.store, self.found(device, frontend), DEADLINE_S)

    def status(self, device: int, frontend: int = FRONTEND) -> dict[str, Any]:
        """The mediator's account of the device."""
        return toolstack.status(self.store, self.found(device, frontend), DEADLINE_S)

    def until_state(self, device: int, state: str, frontend: int = FRONTEND) -> None:
        """Waits for the mediator's state on leg 1."""
        self.until(lambda: self.found(device, frontend).state == state, f"state {state} of device {frontend}/{device}")

    # ---- what is there ---------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Waits for a condition; the test fails when it does not come (and conftest.py then shows `describe`)."""
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"within {deadline_s:g} s there was no {what}")
            time.sleep(POLL_S)

    def nodes(self, path: str) -> dict[str, str]:
        """Every node at and below `path`."""
        found: dict[str, str] = {}
        value = self.store.read(path)
        if value is not None:
            found[path] = value
        for name in self.store.ls(path):
            found |= self.nodes(f"{path}/{name}")
        return found

    def device_nodes(self) -> set[str]:
        """Paths of all nodes of the mediator and the backend."""
        return set(self.nodes(f"/local/domain/{MEDIATOR}")) | set(self.nodes(f"/local/domain/{BACKEND}"))

    def fail(self, why: str) -> NoReturn:
        """Fails the test."""
        pytest.fail(why)

    def describe(self) -> str:
        """The devices' nodes, and the ends of all logs."""
        lines = [f"zombies: {self.machine.zombies()}"]
        lines += [f"{path} = {value!a}" for path, value in sorted(self.nodes("/local/domain").items()) if _tells(path)]
        for service in self.services:
            tail = service.log_path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            lines += [f"-- {service.name} (status {service.process.poll()}):", *tail]
        return "\n".join(lines)


def _tells(path: str) -> bool:
    return any(part in path for part in ("/virtio/", "/svq/"))


def counters_live(status: dict[str, Any]) -> dict[str, int]:
    """What the mediator holds of the hypervisor now, out of a status answer."""
    return {name: value for name, value in status.items() if name.startswith("mediator_") and name.endswith("_live")}
