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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import pytest

from xen_shadowvq import devices, toolstack
from xen_shadowvq.devices import Attached
from xen_shadowvq.dom0 import Dom0
from xen_shadowvq.domain import hypervisor_socket
from xen_shadowvq.embedded.machine import PRIVILEGE_ALL, PRIVILEGE_NONE, DomainSpec, Machine
from xen_shadowvq.embedded.xs_limits import Limits
from xen_shadowvq.hypervisor import Hypervisor, grants_per_frame
from xen_shadowvq.new_device import Disk
from xen_shadowvq.xenstore import XenStore

from .command import REPOSITORY
from .observer import Observer, sentences

MEDIATOR, BACKEND, FRONTEND, OTHER = 1, 2, 3, 4
DEADLINE_S = 30.0
POLL_S = 0.01
MIB = 1 << 20
FRONTEND_MIB = 16
LOG_LINES_SHOWN = 12
MARKS = 0x7F << 9
MAPPABLE_OR_MAPPED = 0b11011  # the type, and the hypervisor's two bits


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
        """SIGSTOP; none of its threads does anything from here on."""
        self.process.send_signal(signal.SIGSTOP)
        while not all(_is_stopped(task) for task in Path(f"/proc/{self.process.pid}/task").iterdir()):
            time.sleep(POLL_S)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and its end."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def terminate(self) -> int:
        """Ends it with SIGTERM; returns the exit status."""
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


def _is_stopped(task: Path) -> bool:
    """The state of a thread follows its name, which is in parentheses and may have any characters."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


class World:
    """The machine and everybody in it, as a context manager. Every wait of it ends with the state that was found."""

    living: ClassVar[list[World]] = []

    def __init__(self, limits: Limits | None = None) -> None:
        """`limits` of XenStore; None: xenstored's own."""
        self._stack = ExitStack()
        self.services: list[Service] = []
        self.unfinished: list[Callable[[], None]] = []  # ends what frontends do, before they are closed
        self.directory = Path(tempfile.mkdtemp(prefix="svq"))  # short: the name of a socket may have 107 bytes only
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.machine = self._stack.enter_context(Machine(self.directory / "m", limits=limits))
        self.dom0 = self._stack.enter_context(Dom0(self.directory / "m", self.machine.store))
        self.observer = self._stack.enter_context(Observer(self.machine))
        self.mediator: Service
        self.backend: Service

    def __enter__(self) -> Self:
        self.living.append(self)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.living.remove(self)
        for service in reversed(self.services):
            service.close()
        found = self.observer.take()
        self._stack.close()
        if found and kind is None:
            self.fail(sentences(found))

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
        self.observer.add(domid)

    def keep_alive(self, domid: int) -> None:
        """The domain outlives its processes from now on, as one does whose service alone crashes."""
        self._stack.enter_context(Hypervisor("driver", hypervisor_socket(self.sim, domid)))

    def start_mediator(self, config: str = "", directory: Path | None = None) -> Service:
        """Starts it and waits until it serves."""
        path = self.directory / "mediator.yaml"
        path.write_text(config or "{}\n")
        self.observer.exact = "placement: page" not in config
        self.observer.clears = "clear: false" not in config
        self.mediator = self._start("mediator", MEDIATOR, ["--config", str(path)], directory or self.sim)
        return self.mediator

    def start_another_mediator(self, domid: int) -> Service:
        """Starts another mediator, in a domain of its own."""
        return self._start("mediator", domid, [], self.sim)

    def start_backend(self, directory: Path | None = None, config: str = "") -> Service:
        """Starts it and waits until it serves."""
        path = self.directory / "backend.yaml"
        path.write_text(config or "{}\n")
        self.backend = self._start("backend", BACKEND, ["--config", str(path)], directory or self.sim)
        return self.backend

    def before_xenstore(self, domid: int) -> tuple[Path, Path, Path]:
        """
        Room for a proxy: a machine's directory for the services of a domain, in which XenStore's socket is still to be
        made; where that is to be, and the machine's own.
        """
        folder, socket = self.directory / f"p{domid}", f"xenstore-dom{domid}.sock"
        folder.mkdir()
        (folder / f"hv-dom{domid}.sock").symlink_to(self.sim / f"hv-dom{domid}.sock")
        return folder, folder / socket, self.sim / socket

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
        """Attaches without waiting; returns the device id."""
        self.observer.exact = self.observer.exact and disk.get("placement") != "page"
        spec = Disk(str(image), **disk)
        return toolstack.attach(
            self.dom0, frontend=frontend, mediator=MEDIATOR, backend=BACKEND, disk=spec, device=device
        )

    def found(self, device: int, frontend: int = FRONTEND) -> Attached:
        """The device as XenStore shows it."""
        return devices.find(self.dom0, frontend, device)

    def detach(self, device: int, frontend: int = FRONTEND) -> None:
        """Detaches and waits for it."""
        toolstack.detach(self.dom0, frontend, device, DEADLINE_S)
        self.observer.removed(frontend, device)

    def status(self, device: int, frontend: int = FRONTEND) -> dict[str, Any]:
        """The mediator's account of the device."""
        return devices.status(self.dom0, self.found(device, frontend), DEADLINE_S)

    def until_state(self, device: int, state: str, frontend: int = FRONTEND) -> None:
        """Waits for the mediator's state on leg 1."""
        self.until(lambda: self.found(device, frontend).state == state, f"state {state} of device {frontend}/{device}")

    def granted(self, domid: int) -> int:
        """Entries of a domain's grant table that a mediator has made and that somebody could map, or has mapped."""
        with self.grant_table(domid) as table:
            entries = [int.from_bytes(table[at : at + 8], "little") for at in range(0, len(table), 8)]
        return sum(bool(entry & MARKS and entry & MAPPABLE_OR_MAPPED) for entry in entries)

    @contextmanager
    def grant_table(self, domid: int) -> Iterator[memoryview]:
        """A domain's whole grant table, 8 bytes an entry, to read and to write as its own kernel could."""
        with Hypervisor("mediator", hypervisor_socket(self.sim, 0)) as hypervisor:
            ffi, lib = hypervisor.library.ffi, hypervisor.library.lib
            frames, va, token = hypervisor.grant_table_frames(domid), ffi.new("void **"), ffi.new("void **")
            rc = lib.svq_hv_map_grant_table(hypervisor.handle, domid, 0, frames, va, token)
            hypervisor.library.check(rc, "map_grant_table", domid)
            yield memoryview(ffi.buffer(va[0], frames * grants_per_frame() * 8))
            lib.svq_hv_unmap_grant_table(hypervisor.handle, token[0])

    # ---- what is there ---------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Waits for a condition; the test fails when it does not come (and conftest.py then shows `describe`)."""
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"within {deadline_s:g} s there was no {what}")
            time.sleep(POLL_S)

    def happens(self, condition: Callable[[], object], within_s: float) -> bool:
        """Whether it comes true at any time of a while."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(POLL_S)
        return False

    def nodes(self, path: str) -> dict[str, str]:
        """Every node at and below `path`."""
        found: dict[str, str] = {}
        value = self.store.read(path)
        if value is not None:
            found[path] = value
        for name in self.store.ls(path):
            found |= self.nodes(f"{path}/{name}")
        return found

    def owned(self, domid: int) -> int:
        """Nodes that a domain owns, which is what XenStore counts for its quota."""
        pending, found = ["/local"], 0
        while pending:
            path = pending.pop()
            found += self.store.get_perms(path)[0][1:] == str(domid)
            pending += [f"{path}/{name}" for name in self.store.ls(path)]
        return found

    def device_nodes(self) -> set[str]:
        """Paths of all nodes of the mediator and the backend."""
        return set(self.nodes(f"/local/domain/{MEDIATOR}")) | set(self.nodes(f"/local/domain/{BACKEND}"))

    def fail(self, why: str) -> NoReturn:
        """Fails the test."""
        pytest.fail(why)

    def describe(self) -> str:
        """The devices' nodes, and the ends of all logs."""
        if self not in self.living:
            return "it is closed"
        lines = [f"zombies: {self.machine.zombies()}", *self.observer.found]
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
