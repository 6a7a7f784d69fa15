# SPDX-License-Identifier: GPL-2.0-or-later
"""The product's two topologies on real Xen: who runs where, and how the tests speak to each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.harness import Domain, DomainSpec, Machine
from tests.harness.domains import CONFIGS, Kind, Userland
from tests.harness.errors import CommandFailed
from tests.harness.packages import REPOSITORY
from tests.xen import page
from tests.xen.remote import Place, Remote

XL_CONFIGS = REPOSITORY / "deploy" / "xl"
PAYLOAD = "/opt/shadowvq/payload"
SERVICE_DEADLINE_S = 240.0
STATUS_LOOKS = 60
CREATE_DEADLINE_S = 120.0
# In domains that are played by attackers: so that it is Xen that refuses, not the attacker's own kernel.
ATTACKER = ("xen_privcmd.unrestricted=1",)
# What the stock driver of a disk and its file system ask for.
DISK_MODULES = ("virtio_blk", "crc32c_generic", "ext4")


class Operator:
    """`shadowvq` in dom0, as an operator calls it; all of it in one process there."""

    def __init__(self, dom0: Machine) -> None:
        self._remote = Remote(dom0, "operator")

    def run(self, *words: str) -> str:
        """Runs one command line and returns what it printed; CommandFailed with that unless it ended with status 0."""
        status, output = self.ask(*words)
        if status != 0:
            raise CommandFailed(f"shadowvq {' '.join(words)}: status {status}\n{output}")
        return output

    def ask(self, *words: str) -> tuple[int, str]:
        """Runs one command line whose status is an answer; returns that, and what it printed."""
        status, output = self._remote.call("run", words=list(words))
        return int(status), str(output)


@dataclass
class Topology:
    """Running services and guests. dom0 is `machine`; a part may run there as well."""

    machine: Machine
    mediator: Place
    backend: Place
    frontends: list[Domain]
    operator: Operator
    loaded: set[int] = field(default_factory=set)

    @property
    def frontend(self) -> Domain:
        """The first guest."""
        return self.frontends[0]

    def load_module(self, frontend: Domain | None = None) -> None:
        """Loads the transport's module and what a disk needs, once a guest."""
        guest = frontend or self.frontend
        if guest.domid not in self.loaded:
            modules = "".join(f"modprobe {module}; " for module in DISK_MODULES)
            guest.run(f"{modules}cd {PAYLOAD}; {page.script('load-module')}")
            self.loaded.add(guest.domid)

    def unload_module(self, frontend: Domain | None = None) -> None:
        """Takes the transport's module off its devices, and out."""
        guest = frontend or self.frontend
        if guest.domid in self.loaded:
            driver = "/sys/bus/xen/drivers/virtio_xenbus"
            guest.run(
                f"for device in {driver}/virtio-*; do [ ! -e $device ] || echo ${{device##*/}} >{driver}/unbind; done; "
                "rmmod virtio_xenbus"
            )
            self.loaded.remove(guest.domid)

    def wait_rebooted(self, frontend: Domain) -> Domain:
        """Waits for a guest that reboots; as it comes back it takes the old one's place."""
        again = self.machine.domains.restarted(frontend)
        self.frontends[self.frontends.index(frontend)] = again
        return again

    @contextmanager
    def backend_stopped(self) -> Iterator[None]:
        """Stops the backend's service (SIGSTOP), so that requests stay alive; it goes on in the end."""
        self.backend.run("systemctl kill -s STOP shadowvq-backend")
        try:
            yield
        finally:
            self.backend.run("systemctl kill -s CONT shadowvq-backend")

    def replace_mediator(self, spec: DomainSpec) -> None:
        """Makes a new mediator domain in place of one that was destroyed, and starts its service."""
        self.mediator = new = self.machine.domains.create_paused(spec)
        self.machine.domains.set_target(new.name, self.frontend.name)
        new.unpause()
        new.wait_booted()
        start_services({"mediator": new})

    def attach(self, image: str, *, frontend: Domain | None = None, wait: bool = True, **options: str | int) -> int:
        """Gives a guest a disk, as `shadowvq ctl attach`; returns the device id. `image` is in the backend's domain."""
        guest = frontend or self.frontend
        words = ["ctl", "attach", "--json", "--frontend", str(guest.domid), "--wait" if wait else "--no-wait"]
        words += ["--mediator", str(self.mediator.domid), "--backend", str(self.backend.domid), "--timeout", "60"]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return int(json.loads(self.operator.run(*words, image))["device"])

    def detach(self, device: int, *, frontend: Domain | None = None) -> None:
        """Takes a disk away; when it returns its nodes are gone."""
        self.operator.run("ctl", "detach", str((frontend or self.frontend).domid), str(device))

    def window(self) -> tuple[int, int]:
        """First grant reference and number of the window that the mediator uses in the first guest's table."""
        pairs = f"/local/domain/{self.mediator.domid}/device/svq"
        first, count = self.machine.run(
            f"for pair in $(xenstore-list {pairs}); do path={pairs}/$pair; "
            f"if [ $(xenstore-read $(xenstore-read $path/backend)/window-owner) = {self.frontend.domid} ]; then "
            "xenstore-read $path/window-first $path/window-count; fi; done"
        ).stdout.split()
        return int(first), int(count)

    def until_status(self, device: int, what: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The counters of one of the first guest's devices, once the condition holds; CommandFailed if it does not."""
        for _ in range(STATUS_LOOKS):
            if condition(counters := self.status(device)):
                return counters
        raise CommandFailed(f"{what}: not so after {STATUS_LOOKS} looks at {counters}")

    def status(self, device: int, *, frontend: Domain | None = None) -> dict[str, Any]:
        """The mediator's counters of one device."""
        guest = (frontend or self.frontend).domid
        answer = self.operator.run("ctl", "status", "--timeout", "60", "--json", str(guest), str(device))
        counters: dict[str, Any] = json.loads(answer)
        return counters


def spec_from(config: str, **changes: Any) -> DomainSpec:
    """The specification of a guest from an operator's configuration below deploy/xl."""
    text = (XL_CONFIGS / config).read_text()
    return DomainSpec(base_config=text, **changes)


def start_services(places: dict[str, Place]) -> None:
    """Installs and starts services, each in its place, as the operators' page has it."""
    jobs = [
        place.start(
            f"{page.script(f'start-{role}')} systemctl is-active shadowvq-{role}", deadline_s=SERVICE_DEADLINE_S
        )
        for role, place in places.items()
    ]
    for job in jobs:
        job.check()


@contextmanager
def destroyed_in_the_end(dom0: Machine) -> Iterator[None]:
    """Destroys, on leaving, all domains that are still there; a zombie fails."""
    try:
        yield
    finally:
        with ExitStack() as stack:
            for domain in dom0.domains.alive():
                stack.callback(domain.destroy)


def _frontend_spec(config: str, name: str, **changes: Any) -> DomainSpec:
    """A PVH guest as large as a direct window wants it: 384 MiB take 194 frames, and 32 are left to the guest."""
    wanted: dict[str, Any] = {"kind": Kind.PVH, "userland": Userland.FULL, "memory_mib": 384, "max_grant_frames": 256}
    wanted["kernel_arguments"] = ATTACKER
    return spec_from(config, name=name, **wanted | changes)


@contextmanager
def separate(dom0: Machine) -> Iterator[Topology]:
    """A PV mediator domain with privilege over one PVH guest, and a PV backend domain: all three boot at once."""
    service = {"kind": Kind.PV, "userland": Userland.SYSTEMD, "memory_mib": 320}
    specs = [
        _frontend_spec("separate/frontend.cfg", "frontend"),
        spec_from("separate/mediator.cfg", name="mediator", **service),
        spec_from("separate/backend.cfg", name="backend", kernel_arguments=ATTACKER, **service | {"memory_mib": 512}),
    ]
    with destroyed_in_the_end(dom0):
        for spec in specs:
            dom0.domains.write_config(spec)
        dom0.run(f"cd {CONFIGS}; {page.script('create-domains')}", deadline_s=CREATE_DEADLINE_S)
        frontend, mediator, backend = domains = [dom0.domains.created(spec) for spec in specs]
        operator = Operator(dom0)
        for domain in domains:
            domain.wait_booted()
        start_services({"mediator": mediator, "backend": backend})
        yield Topology(dom0, mediator, backend, [frontend], operator)


@contextmanager
def together(dom0: Machine) -> Iterator[Topology]:
    """Both services in dom0, and two PVH guests, the second with two processors."""
    domains: list[Domain] = []
    with destroyed_in_the_end(dom0):
        for name, vcpus in (("frontend-a", 1), ("frontend-b", 2)):
            restarts = {"on_reboot": '"restart"'}
            spec = _frontend_spec(f"dom0/{name}.cfg", name, vcpus=vcpus, extra_config=restarts)
            domains.append(dom0.domains.create_paused(spec))
        for domain in domains:
            domain.unpause()
        operator = Operator(dom0)
        start_services({"mediator": dom0, "backend": dom0})
        for domain in domains:
            domain.wait_booted()
        yield Topology(dom0, dom0, dom0, domains, operator)
