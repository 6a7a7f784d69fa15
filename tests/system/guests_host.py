# SPDX-License-Identifier: GPL-2.0-or-later
"""A host with declared guests: their files, their lives, and the service that gives them their disks."""

from __future__ import annotations

from pathlib import Path

from xen_shadowvq.devices import Attached
from xen_shadowvq.embedded.machine import DomainSpec
from xen_shadowvq.errors import ConfigError

from .command import Done, ask
from .world import BACKEND, FRONTEND_MIB, MEDIATOR, Service, World

SERVED_BY = f"mediator: dom{MEDIATOR}\nbackend: dom{BACKEND}\n"


class Host:
    """A world, and the directory of declarations."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.directory = world.directory / "guests.d"
        self.directory.mkdir()

    def file(self, name: str = "web1") -> Path:
        """Where a guest's declaration is."""
        return self.directory / f"{name}.yaml"

    def declare(self, *disks: str, name: str = "web1", head: str = SERVED_BY) -> None:
        """Writes a guest's file as a whole; a disk is what stands in its braces after the image's path."""
        listed = "".join(f"  - {{image: {disk}}}\n" for disk in disks) or "  []\n"
        new = self.directory / f".{name}.new"
        new.write_text(f"{head}disks:\n{listed}")
        new.rename(self.file(name))

    def live(self, domid: int, name: str = "web1") -> None:
        """A guest of that name begins a life."""
        self.world.machine.create_domain(DomainSpec(domid, name, FRONTEND_MIB))
        self.world.observer.add(domid)

    def die(self, domid: int) -> None:
        """Ends a guest's life."""
        self.world.machine.destroy_domain(domid)

    def start_service(self) -> Service:
        """Starts `shadowvq guests` and waits until it serves."""
        arguments = ["xen_shadowvq", "guests", "--sim", str(self.world.sim), "--directory", str(self.directory)]
        return self.world.start_process("guests", arguments, ready="service_ready")

    def apply(self, *arguments: str) -> Done:
        """`shadowvq ctl apply`."""
        where = f"--sim={self.world.sim}", f"--directory={self.directory}"
        return ask("ctl", "apply", *where, *arguments)

    def device(self, domid: int, device: int = 0) -> Attached | None:
        """A device as XenStore shows it."""
        try:
            return self.world.found(device, domid)
        except ConfigError:
            return None

    def offered(self, domid: int, device: int = 0) -> bool:
        """Whether a guest could connect to it."""
        found = self.device(domid, device)
        return found is not None and found.state == "InitWait"

    def until_offered(self, domid: int, *devices: int) -> None:
        """Waits for disks."""
        for device in devices or (0,):
            self.world.until(lambda device=device: self.offered(domid, device), f"device {device} of domain {domid}")  # type: ignore[misc]

    def until_gone(self, domid: int, device: int = 0) -> None:
        """Waits until a device is gone."""
        self.world.until(lambda: self.device(domid, device) is None, f"end of device {device} of domain {domid}")

    def digests(self, domid: int) -> dict[int, str | None]:
        """What dom0's records say of a guest's devices: the digest of what is declared, None for one made by hand."""
        records = self.world.dom0.records(domid)
        return {record.device: record.declared.digest.hex() if record.declared else None for record in records}
