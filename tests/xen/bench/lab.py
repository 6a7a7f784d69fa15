# SPDX-License-Identifier: GPL-2.0-or-later
"""The domains that are measured: a guest, a mediator, a backend whose disk is in memory, and the services."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.harness import Domain, DomainSpec, Machine
from tests.harness.domains import Kind, Userland
from tests.harness.scripts import until
from tests.xen import page
from tests.xen.bench.jobs import DISK_MIB
from tests.xen.topology import PAYLOAD, SERVICE_DEADLINE_S, Operator, destroyed_in_the_end, spec_from, start_services
from tests.xen.topology import Topology as Services

GUEST_MIB = 256
BOUNCING = "bouncing"
# Xen keeps an entry for each mapping of a grant, and the baselines' backend maps each page of two guests twice (once
# for the process, once for its kernel); the usual 1024 frames are just that many, which leaves none to anybody else.
MAPTRACK_FRAMES = 4096
XEN_ARGUMENTS = (f"gnttab_max_maptrack_frames={MAPTRACK_FRAMES}",)
# Half for what the guest uses and the mediator's direct window, above it an entry for each page (see measure.py).
GUEST_GRANT_FRAMES = 448
BOOT_DEADLINE_S = 1200.0  # figures do not depend on what else this computer does, but the wait for them does
FILL_DEADLINE_S = 600.0
# null_blk keeps what is written in memory of its domain; it is filled beforehand, so that every read finds a page.
DISK_DEVICE = "/dev/nullb0"
IMAGE = "/var/lib/shadowvq/disk"
MAKE_DISK = f"""modprobe null_blk nr_devices=1 gb=1 memory_backed=1 submit_queues=1
{until(f"[ -b {DISK_DEVICE} ]")}
tr '\\0' '\\245' </dev/zero | dd of={DISK_DEVICE} bs=1M count={DISK_MIB} iflag=fullblock oflag=direct status=none
mkdir -p /var/lib/shadowvq
ln -s {DISK_DEVICE} {IMAGE}
mkdir -p /etc/systemd/system/shadowvq-backend.service.d
printf '[Service]\\nDeviceAllow=block-nullb rw\\n' >/etc/systemd/system/shadowvq-backend.service.d/bench.conf
modprobe xen-blkback
"""


@dataclass
class Lab:
    """The domains, and the services as the tests know them."""

    services: Services
    second_guest: Domain | None = None

    @property
    def machine(self) -> Machine:
        """dom0."""
        return self.services.machine

    @property
    def guest(self) -> Domain:
        """Where fio runs."""
        return self.services.frontend

    @property
    def bouncing(self) -> Domain:
        """The guest that copies all that a device is to see into one area of its memory."""
        assert self.second_guest, "this lab was made without it"
        return self.second_guest

    @property
    def backend(self) -> Domain:
        """Where the disk is."""
        place = self.services.backend
        assert isinstance(place, Domain)
        return place


def _specs(*, bouncing: bool) -> dict[str, DomainSpec]:
    service: dict[str, Any] = {"kind": Kind.PV, "userland": Userland.SYSTEMD, "memory_mib": 320}
    guest: dict[str, Any] = {"kind": Kind.PVH, "userland": Userland.FULL, "memory_mib": GUEST_MIB}
    guest["max_grant_frames"] = GUEST_GRANT_FRAMES
    all_mapped = {"max_maptrack_frames": str(MAPTRACK_FRAMES)}
    specs = [
        spec_from("separate/frontend.cfg", name="frontend", **guest),
        spec_from("separate/mediator.cfg", name="mediator", **service),
        spec_from("separate/backend.cfg", name="backend", extra_config=all_mapped, **service | {"memory_mib": 512}),
    ]
    if bouncing:
        specs.append(spec_from("separate/frontend.cfg", name=BOUNCING, kernel_arguments=("swiotlb=force",), **guest))
    return {spec.name: spec for spec in specs}


@contextmanager
def running(dom0: Machine, *, bouncing: bool) -> Iterator[Lab]:
    """Boots the domains, fills the disk and starts the services. `bouncing`: with a second guest, for swiotlb."""
    with destroyed_in_the_end(dom0):
        domains = {name: dom0.domains.create_paused(spec) for name, spec in _specs(bouncing=bouncing).items()}
        dom0.domains.set_target("mediator", "frontend")
        for domain in domains.values():
            domain.unpause()
        operator = Operator(dom0)
        for domain in domains.values():
            domain.wait_booted(BOOT_DEADLINE_S)
        domains["backend"].run(MAKE_DISK, deadline_s=FILL_DEADLINE_S)
        start_services({"mediator": domains["mediator"], "backend": domains["backend"]})
        services = Services(dom0, domains["mediator"], domains["backend"], [domains["frontend"]], operator)
        yield Lab(services, domains.get(BOUNCING))


def load_modules(guest: Domain) -> None:
    """What a virtio disk needs in a guest."""
    guest.run(
        f"modprobe virtio_blk; cd {PAYLOAD}; [ -d /sys/module/virtio_xenbus ] || {{ {page.script('load-module')} }}"
    )


def attach_mediated(lab: Lab, placement: str) -> tuple[int, str]:
    """A disk through the mediator, with direct I/O as blkback does it: its number, and its name in the guest."""
    load_modules(lab.guest)
    domids = ("--frontend", lab.guest.domid, "--mediator", lab.services.mediator.domid, "--backend", lab.backend.domid)
    how = ("--placement", placement, "--direct-io", "--shareable", "--json", "--timeout", 60)
    answer = json.loads(lab.services.operator.run("ctl", "attach", *map(str, (*domids, *how)), IMAGE))
    return int(answer["device"]), disk_of(lab.guest, int(answer["device"]))


def map_memory_once(lab: Lab, numbers: Iterable[int]) -> None:
    """From now on the mediator takes it that its guest never balloons. Takes its disks `numbers` away before."""
    for number in numbers:
        lab.services.detach(number)
    lab.services.mediator.run(
        "printf 'defaults:\\n  memory: fixed\\n' >/etc/shadowvq/shadowvq.yaml; "
        "systemctl restart shadowvq-mediator; systemctl is-active shadowvq-mediator",
        deadline_s=SERVICE_DEADLINE_S,
    )


def disk_of(guest: Domain, number: int) -> str:
    """Waits for a virtio disk, and says what it is called in the guest."""
    block = f"/sys/devices/virtio_xenbus/virtio-{number}/virtio*/block"
    name = guest.run(f"{until(f'ls {block}/vd* >/dev/null 2>&1')}; ls {block}", deadline_s=90).stdout.strip()
    return f"/dev/{name}"


def attach_blkback(lab: Lab, name: str, *, persistent: bool) -> str:
    """A disk through Xen's own xen-blkback in the backend's domain and xen-blkfront in the guest; its name there."""
    wanted = "Y" if persistent else "N"
    parameter = f"echo {wanted} >/sys/module/xen_%s/parameters/feature_persistent"
    lab.backend.run(parameter % "blkback")
    lab.guest.run(parameter % "blkfront")
    backend, frontend = lab.backend.domid, lab.guest.domid
    number = 202 << 8 | (ord(name[-1]) - ord("a")) << 4
    back = f"/local/domain/{backend}/backend/vbd/{frontend}/{number}"
    front = f"/local/domain/{frontend}/device/vbd/{number}"
    disk = lab.backend.run(f"stat -L -c %t:%T {DISK_DEVICE}").stdout.strip()
    nodes = {
        back: {
            "frontend": front,
            "frontend-id": frontend,
            "online": 1,
            "removable": 0,
            "bootable": 0,
            "dev": name,
            "type": "phy",
            "mode": "w",
            "device-type": "disk",
            "discard-enable": 0,
            "physical-device": disk,
            "params": DISK_DEVICE,
            "hotplug-status": "connected",
            "state": 1,
        },
        front: {
            "backend": back,
            "backend-id": backend,
            "virtual-device": number,
            "device-type": "disk",
            "state": 1,
        },
    }
    script = [
        *(f"xenstore-write {path} ''" for path in nodes),
        f"xenstore-chmod /local/domain/{backend}/backend n{backend}",
        f"xenstore-chmod /local/domain/{backend}/backend/vbd n{backend}",
        f"xenstore-chmod /local/domain/{backend}/backend/vbd/{frontend} n{backend}",
        f"xenstore-chmod {back} n{backend} r{frontend}",
        f"xenstore-chmod {front} n{frontend} r{backend}",
        *(
            f"xenstore-write {path}/{key} {shlex.quote(str(value))}"
            for path, entries in nodes.items()
            for key, value in entries.items()
        ),
    ]
    lab.machine.run("; ".join(script))
    lab.guest.run(until(f"[ -b /dev/{name} ]"), deadline_s=90)
    agreed = lab.guest.run(f"cat /sys/block/{name}/size; true").stdout
    assert int(agreed) > 0, agreed
    said = lab.machine.run(f"xenstore-read {front}/feature-persistent").stdout.strip()
    assert said == str(int(persistent)), f"xen-blkfront says feature-persistent={said}"
    return f"/dev/{name}"


def blkback_notifications(lab: Lab) -> dict[str, int]:
    """Interrupts of block devices that both ends have taken so far; all that can be counted of blkback from outside."""
    look = "awk '/blkif/ { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' /proc/interrupts"
    return {"notifications": sum(int(place.run(look).stdout) for place in (lab.guest, lab.backend))}
