# SPDX-License-Identifier: GPL-2.0-or-later
"""One running machine: QEMU, Xen and dom0, and the way to give them commands."""

import base64
import contextlib
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.cache import one_of
from tests.harness.channel import DOM0, Channel, Job, Result
from tests.harness.domains import Domains
from tests.harness.errors import HarnessError, MachineFailed
from tests.harness.images import MachineImages
from tests.harness.monitor import Monitor
from tests.harness.qemu import MachineSpec, Sockets, machines_at_once, qemu_command
from tests.harness.qmp import Qmp
from tests.harness.scripts import PROCESSES

CONNECT_DEADLINE_S = 30.0
BOOT_DEADLINE_S = 300.0
COMMAND_DEADLINE_S = 60.0
QUIT_DEADLINE_S = 10.0
CHUNK = 1 << 16
# What is asked of dom0 when a test failed; each answer becomes a file.
DOM0_LOGS = {
    "xl-dmesg": "xl dmesg",
    "xl-list": "xl list --long; xl list; xl vcpu-list",
    "xenstore": "xenstore-ls -fp",
    "journal": "journalctl --no-pager -b -o short-monotonic",
    "dmesg": "dmesg",
    "processes": PROCESSES,
    "guest-consoles": "tail -n 300 /var/log/xen/console/*.log",
    "xl-logs": "tail -n 200 /var/log/xen/*.log",
}


class Machine:
    """A machine that has booted. `boot_s` maps milestones of the boot to seconds since QEMU started."""

    domid = 0  # what is run here runs in dom0

    def __init__(self, qemu: subprocess.Popen[bytes], qmp: Qmp, channel: Channel, monitor: Monitor) -> None:
        self._qemu = qemu
        self.qmp = qmp
        self.channel = channel
        self.monitor = monitor
        self.domains = Domains(self)
        self.boot_s: dict[str, float] = {}

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._qemu.pid

    def start(self, script: str, *, deadline_s: float = COMMAND_DEADLINE_S, stdin: bytes = b"") -> Job:
        """Starts a shell script in dom0, beside whatever else runs there."""
        return self.channel.start(DOM0, script, deadline_s, stdin)

    def run(self, script: str, *, deadline_s: float = COMMAND_DEADLINE_S, stdin: bytes = b"") -> Result:
        """Runs a shell script in dom0 to its end; CommandFailed unless its status is 0."""
        return self.start(script, deadline_s=deadline_s, stdin=stdin).check()

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Writes a file in dom0, whole or not at all."""
        quoted, new = shlex.quote(path), shlex.quote(path + ".new")
        self.run(
            f"mkdir -p $(dirname {quoted}) && cat > {new} && chmod {mode:o} {new} && mv {new} {quoted}",
            stdin=data,
        )

    def get(self, path: str) -> bytes:
        """Reads a file in dom0."""
        return base64.b64decode(self.run(f"base64 -w 0 {shlex.quote(path)}").stdout)

    def collect_logs(self, folder: Path) -> None:
        """Writes all that may explain a failure into `folder`: works as far as the machine still does."""
        folder.mkdir(parents=True, exist_ok=True)
        console = self.monitor.console_log
        if console.exists():
            (folder / "console.log").write_bytes(console.read_bytes())
        for name, script in DOM0_LOGS.items():
            try:
                text = self.start(script).wait().stdout
            except HarnessError as error:
                (folder / "machine.txt").write_text(f"{error}\n")
                break
            (folder / f"{name}.txt").write_text(text)
        with contextlib.suppress(HarnessError):
            self.domains.collect_logs(folder)
        with contextlib.suppress(HarnessError):
            (folder / "registers.txt").write_text(self.qmp.registers())


def _read_console(connection: socket.socket, monitor: Monitor) -> None:
    with monitor.console_log.open("wb", buffering=0) as log, contextlib.suppress(OSError):
        while chunk := connection.recv(CHUNK):
            log.write(chunk)
            monitor.add_console(chunk)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    listener.settimeout(CONNECT_DEADLINE_S)
    return listener


def _accept(listener: socket.socket, qemu_log: Path) -> socket.socket:
    with listener:
        try:
            connection, _ = listener.accept()
        except TimeoutError as error:
            raise MachineFailed(f"QEMU did not start:\n{qemu_log.read_text(errors='replace')}") from error
    connection.settimeout(None)
    return connection


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def boot(images: MachineImages, spec: MachineSpec, log_folder: Path, *, cache: Path) -> Iterator[Machine]:
    """Boots a machine and yields it once dom0 takes commands; ends it on leaving.

    `log_folder` gets console.log and qemu.log. Locks in the cache folder keep the number of machines to what this one
    can run: more at once would only be slower, and miss each other's deadlines.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_of([cache / f"machine-{slot}.lock" for slot in range(machines_at_once(spec))]))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="svq-xen-")))
        sockets = Sockets(folder / "qmp", folder / "console", folder / "agent")
        listeners = [_listen(path) for path in (sockets.qmp, sockets.console, sockets.agent)]
        for listener in listeners:
            stack.callback(listener.close)
        qemu_log = log_folder / "qemu.log"
        started = time.monotonic()
        qemu = stack.enter_context(_process(qemu_command(spec, images, sockets), qemu_log))
        control, console, agent = (_accept(listener, qemu_log) for listener in listeners)
        for connection in (control, console, agent):
            stack.callback(connection.close)

        monitor = Monitor(log_folder / "console.log", lambda: qemu.poll() is None)
        reader = threading.Thread(target=_read_console, args=(console, monitor), name="xen-console", daemon=True)
        reader.start()
        qmp = Qmp(control)
        stack.callback(qmp.close)
        machine = Machine(qemu, qmp, Channel(agent, monitor), monitor)
        qmp.execute("cont")
        monitor.wait(lambda: monitor.console_has(b"Xen version") or None, "Xen's first word", BOOT_DEADLINE_S)
        machine.boot_s["xen"] = time.monotonic() - started
        machine.channel.open(DOM0, "dom0", BOOT_DEADLINE_S)
        machine.boot_s["dom0 takes commands"] = time.monotonic() - started
        try:
            yield machine
        finally:
            with contextlib.suppress(HarnessError, OSError):
                qmp.execute("quit")
            with contextlib.suppress(subprocess.TimeoutExpired):
                qemu.wait(QUIT_DEADLINE_S)
            for connection in (console, agent):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            reader.join(QUIT_DEADLINE_S)
            machine.channel.join(QUIT_DEADLINE_S)
