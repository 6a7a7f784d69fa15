# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests: made and ended with xl in dom0, spoken to through the agent on their consoles."""

from __future__ import annotations

import contextlib
import enum
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.harness.channel import Job, Result
from tests.harness.errors import HarnessError
from tests.harness.kernel import GUEST_MODULES, KERNEL_ARGUMENTS, ROOT_DISK_MODULES
from tests.harness.scripts import PROCESSES, until

if TYPE_CHECKING:
    from tests.harness.machine import Machine

KERNEL = "/opt/shadowvq/boot/vmlinux"
INITRAMFS = "/opt/shadowvq/boot/initramfs"
BLOCK_SCRIPT = "/opt/shadowvq/harness/block-attach.sh"
XL_DEADLINE_S = 90.0
BOOT_DEADLINE_S = 240.0
COMMAND_DEADLINE_S = 60.0
LOGS_DEADLINE_S = 20.0
GUEST_LOGS = {
    "log": "if [ -S /run/systemd/journal/socket ]; then journalctl --no-pager -b -o short-monotonic; else dmesg; fi",
    "xenstore": "xenstore-ls -f device",
    "processes": PROCESSES,
}
DESTROY_S = 10  # of dom0's time for a destroyed domain to vanish
CONFIGS = "/run/harness"


class Kind(enum.Enum):
    """How a guest runs. Only a PV guest (or dom0) may map another domain's grant table."""

    PV = "pv"
    PVH = "pvh"


class Userland(enum.Enum):
    """What a guest has besides its kernel."""

    BUSYBOX = "busybox"  # from the initramfs: starts faster, needs less memory, one command at a time
    FULL = "full"  # dom0's own root image: Python, the project's code, commands in parallel
    SYSTEMD = "systemd"  # the same, and systemd, as a service's own domain has it


INIT = {
    Userland.FULL: "/opt/shadowvq/harness/guest-init.sh",
    Userland.SYSTEMD: "/lib/systemd/systemd systemd.unit=harness-guest.target systemd.show_status=error",
}


@dataclass(frozen=True)
class DomainSpec:
    """A guest to make.

    `base_config` is an operator's xl configuration, of which ours replaces what the machine needs otherwise, and
    `extra_config` are further lines: key -> value as xl reads it. Of an assignment given twice xl takes the last.
    """

    name: str
    kind: Kind
    userland: Userland = Userland.BUSYBOX
    memory_mib: int = 256
    vcpus: int = 1
    max_grant_frames: int = 64
    modules: tuple[str, ...] = GUEST_MODULES
    kernel_arguments: tuple[str, ...] = ()
    extra_config: Mapping[str, str] = field(default_factory=dict)
    base_config: str = ""

    def to_config(self) -> str:
        """Returns the text of its xl configuration."""
        modules = self.modules if self.userland is Userland.BUSYBOX else (*ROOT_DISK_MODULES, *self.modules)
        arguments = ["console=hvc0", "rdinit=/init", "loglevel=4", "panic=-1", *KERNEL_ARGUMENTS]
        arguments.append(f"harness.modules={','.join(modules)}")
        disks = ""
        if self.userland is not Userland.BUSYBOX:
            arguments.append(f"harness.root=/dev/xvda harness.project=/dev/xvdb harness.init={INIT[self.userland]}")
            disks = ", ".join(
                f"'format=raw,vdev={guest},access=r,script={BLOCK_SCRIPT},target=/dev/{own}'"
                for own, guest in (("vda", "xvda"), ("vdb", "xvdb"))
            )
        settings = {
            "name": f'"{self.name}"',
            "type": f'"{self.kind.value}"',
            "kernel": f'"{KERNEL}"',
            "ramdisk": f'"{INITRAMFS}"',
            "extra": f'"{" ".join((*arguments, *self.kernel_arguments))}"',
            "memory": str(self.memory_mib),
            "vcpus": str(self.vcpus),
            "disk": f"[{disks}]",
            "max_grant_frames": str(self.max_grant_frames),
            "max_grant_version": "1",  # the mediator writes version 1 entries
            "on_crash": '"preserve"',  # a test looks at what it killed
            "on_reboot": '"destroy"',
            **self.extra_config,
        }
        return self.base_config + "".join(f"{key} = {value}\n" for key, value in settings.items())


class Domain:
    """A guest that exists, running or not."""

    def __init__(self, machine: Machine, spec: DomainSpec, domid: int) -> None:
        self._machine = machine
        self._target: str | None = None
        self.spec = spec
        self.domid = domid

    @property
    def name(self) -> str:
        """Its name for xl."""
        return self.spec.name

    @property
    def path(self) -> str:
        """Its folder in XenStore."""
        return f"/local/domain/{self.domid}"

    def _tty(self) -> str:
        if self._target is None:
            node = f"{self.path}/console/tty"  # empty until xenconsoled has filled it in
            named = until(f'tty=$(xenstore-read {node} 2>/dev/null) && [ -n "$tty" ]')
            self._target = self._machine.run(f"{named}; echo $tty", deadline_s=XL_DEADLINE_S).stdout.strip()
            self._machine.channel.forget(self._target)
        return self._target

    def wait_booted(self, deadline_s: float = BOOT_DEADLINE_S) -> None:
        """Waits until its agent takes commands."""
        self._machine.channel.open(self._tty(), self.name, deadline_s)

    def start(self, script: str, *, deadline_s: float = COMMAND_DEADLINE_S, stdin: bytes = b"") -> Job:
        """Starts a shell script in the guest, which has booted."""
        return self._machine.channel.start(self._tty(), script, deadline_s, stdin)

    def run(self, script: str, *, deadline_s: float = COMMAND_DEADLINE_S, stdin: bytes = b"") -> Result:
        """Runs a shell script in the guest to its end; CommandFailed unless its status is 0."""
        return self.start(script, deadline_s=deadline_s, stdin=stdin).check()

    def put(self, path: str, data: bytes, mode: int = 0o755) -> None:
        """Writes a file in the guest. A console carries some 100 kB a second."""
        quoted = shlex.quote(path)
        self.run(f"cat > {quoted} && chmod {mode:o} {quoted}", stdin=data)

    def pause(self) -> None:
        """Stops its processors."""
        self._machine.run(f"xl pause {self.domid}")

    def unpause(self) -> None:
        """Lets its processors run."""
        self._machine.run(f"xl unpause {self.domid}")

    def console_log(self) -> str:
        """All that its console has shown."""
        log = f"/var/log/xen/console/guest-{self.name}.log"
        return self._machine.run(f"cat {log} 2>/dev/null || true").stdout

    def destroy(self) -> None:
        """Ends it, and waits until the hypervisor has forgotten it; CommandFailed if it stays as a zombie."""
        gone = until(f"! xl list {self.domid} >/dev/null 2>&1", DESTROY_S)
        self._machine.run(
            f"xl destroy {self.domid} 2>&1; ({gone}) || {{ echo 'a zombie is left:'; xl list; exit 1; }}",
            deadline_s=XL_DEADLINE_S,
        )


class Domains:
    """The guests of a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._made: dict[str, Domain] = {}  # by name, the last of each

    def write_config(self, spec: DomainSpec) -> str:
        """Writes a guest's xl configuration in dom0; its path, NAME.cfg in CONFIGS."""
        path = f"{CONFIGS}/{spec.name}.cfg"
        self._machine.put(path, spec.to_config().encode())
        return path

    def created(self, spec: DomainSpec) -> Domain:
        """The guest that was created, by whomever, from what write_config wrote; CommandFailed if there is none."""
        domid = self._machine.run(f"xl domid {spec.name}").stdout
        self._made[spec.name] = domain = Domain(self._machine, spec, int(domid))
        return domain

    def create_paused(self, spec: DomainSpec) -> Domain:
        """Makes a guest whose processors do not run yet; CommandFailed carries what xl said."""
        self._machine.run(f"xl create -q -p {self.write_config(spec)}", deadline_s=XL_DEADLINE_S)
        return self.created(spec)

    def restarted(self, domain: Domain) -> Domain:
        """Waits until xl has made a rebooted guest again, under another domid, and until it takes commands."""
        other = f"domid=$(xl domid {domain.name} 2>/dev/null) && [ $domid != {domain.domid} ]"
        self._machine.run(until(other), deadline_s=XL_DEADLINE_S)
        again = self.created(domain.spec)
        again.wait_booted()
        return again

    def alive(self) -> list[Domain]:
        """The guests made here that the hypervisor still knows."""
        there = self.list()
        return [domain for domain in self._made.values() if there.get(domain.name) == domain.domid]

    def collect_logs(self, folder: Path) -> None:
        """Writes what each guest that still takes commands says of itself: its journal or kernel log, and more."""
        for domain in self.alive():
            if domain.spec.userland is not Userland.BUSYBOX:
                with contextlib.suppress(HarnessError):
                    for name, script in GUEST_LOGS.items():
                        logs = domain.start(script, deadline_s=LOGS_DEADLINE_S).wait()
                        (folder / f"{domain.name}-{name}.txt").write_text(logs.stdout)

    def set_target(self, mediator: str, frontend: str) -> None:
        """Gives a domain device-model privilege over another; before it first runs: privcmd reads the node once."""
        self._machine.run(f"/opt/shadowvq/deploy/set-target {mediator} {frontend}")

    @contextmanager
    def running(self, spec: DomainSpec, *, target: Domain | None = None) -> Iterator[Domain]:
        """Makes a guest, yields it once it takes commands, and destroys it on leaving.

        With `target` it is a mediator domain, see set_target.
        """
        domain = self.create_paused(spec)
        try:
            if target is not None:
                self.set_target(domain.name, target.name)
            domain.unpause()
            domain.wait_booted()
            yield domain
        finally:
            domain.destroy()

    def list(self) -> dict[str, int]:
        """The domains that the hypervisor knows: name (zombies: "(null)") -> domid."""
        lines = self._machine.run("xl list").stdout.splitlines()[1:]
        return {line.split()[0]: int(line.split()[1]) for line in lines}
