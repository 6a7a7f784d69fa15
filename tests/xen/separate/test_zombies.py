# SPDX-License-Identifier: GPL-2.0-or-later
"""Each domain is destroyed while the guest writes; what it held is counted. The last tests of this topology."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import Domain
from tests.harness.scripts import until
from tests.xen import report
from tests.xen.remote import Remote
from tests.xen.topology import Topology
from tests.xen.writer import DISK_IS_THERE, WRITER_FAILED, write_without_end

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

IMAGE = f"{report.IMAGES}/disk.img"


def attach_and_write(topology: Topology) -> int:
    """Attaches a disk to which the guest writes without end; returns the device."""
    device = topology.attach(IMAGE)
    write_without_end(topology.frontend)
    return device


def held(topology: Topology, *domains: Domain) -> dict[str, Any]:
    """What a lost peer could leave behind: event channels of domains, pairs in XenStore."""
    domids = " ".join(str(domain.domid) for domain in domains)
    pairs, *channels = topology.machine.run(
        f"xenstore-ls -f / | grep -cE '/(virtio|svq)/([0-9]+/)?[0-9]+ = '; "
        f"for domid in {domids}; do lsevtchn $domid | wc -l; done"
    ).stdout.split()
    return {"pairs": int(pairs), "event_channels": [int(count) for count in channels]}


def fds(domain: Any, role: str) -> list[str]:
    """What a service in its domain has open, without numbers."""
    links = domain.run(
        f"for fd in /proc/$(systemctl show -P MainPID shadowvq-{role})/fd/*; do readlink $fd; done"
    ).stdout
    return sorted(link.split("[")[0] if link.startswith("socket") else link for link in links.splitlines())


@pytest.fixture(scope="module", autouse=True)
def ready(separate: Topology) -> None:
    """The transport's module in the guest, an empty image, and what the services keep once for all devices. The backend
    maps: a page that it only copies would make no zombie."""
    separate.load_module()
    separate.backend.run(f"rm -f {IMAGE}; truncate -s 16M {IMAGE}")
    separate.backend.run("echo 'grant_copy: never' >/etc/shadowvq/backend.yaml; systemctl restart shadowvq-backend")
    device = separate.attach(IMAGE)
    separate.frontend.run(DISK_IS_THERE, deadline_s=90)
    separate.detach(device)


def test_mediator_destroyed_under_io(separate: Topology) -> None:
    """The mediator's domain is destroyed with requests in flight: no zombie, and the guest gives nothing back, since
    what was granted still is. Then dom0 takes that back, the writer gets errors, and the backend lets go of all that it
    had. A new mediator domain serves the guest again."""
    machine, guest, backend = separate.machine, separate.frontend, separate.backend
    assert isinstance(separate.mediator, Domain) and isinstance(backend, Domain)
    names, before = set(machine.domains.list()), held(separate, guest, backend)
    before_fds = fds(backend, "backend")
    device = attach_and_write(separate)
    first, count = separate.window()
    with separate.backend_stopped():
        separate.until_status(device, "pages are granted", lambda now: now["window_in_use"] > 0)
        separate.mediator.pause()  # so that what is granted stays so
    separate.mediator.destroy()
    assert set(machine.domains.list()) == names - {separate.mediator.name}
    auditor = Remote(machine, "auditor")
    assert auditor.call("entries_in_use", domid=guest.domid, first=first, count=count) > 0
    guest.run("[ ! -e /run/failed ]")
    separate.detach(device)
    assert auditor.call("entries_in_use", domid=guest.domid, first=first, count=count) == 0
    guest.run(WRITER_FAILED, deadline_s=90)
    assert (held(separate, guest, backend), fds(backend, "backend")) == (before, before_fds)

    separate.replace_mediator(separate.mediator.spec)
    device = separate.attach(IMAGE)
    guest.run(f"{DISK_IS_THERE}; dd if=/dev/vda of=/dev/null bs=64k iflag=direct", deadline_s=120)
    first, count = separate.window()
    separate.detach(device)
    assert auditor.call("entries_in_use", domid=guest.domid, first=first, count=count) == 0
    assert (held(separate, guest, backend), fds(backend, "backend")) == (before, before_fds)


def test_backend_destroyed_under_io(separate: Topology) -> None:
    """The backend's domain is destroyed while the guest writes: no zombie, and the mediator lets go of all."""
    machine, guest, mediator = separate.machine, separate.frontend, separate.mediator
    assert isinstance(mediator, Domain) and isinstance(separate.backend, Domain)
    names, before = set(machine.domains.list()), held(separate, guest, mediator)
    before_fds = fds(mediator, "mediator")
    device = attach_and_write(separate)
    first, count = separate.window()
    separate.backend.destroy()
    assert set(machine.domains.list()) == names - {separate.backend.name}
    separate.detach(device)
    guest.run(WRITER_FAILED, deadline_s=90)
    assert (held(separate, guest, mediator), fds(mediator, "mediator")) == (before, before_fds)
    assert Remote(machine, "auditor").call("entries_in_use", domid=guest.domid, first=first, count=count) == 0


def test_frontend_destroyed_and_then_its_mediator(separate: Topology) -> None:
    """The guest is destroyed: it has no page left, although the mediator had mapped all of its memory. Xen keeps an
    empty husk of it as long as there is a domain whose target it is. (Under I/O: in the other topology.)"""
    machine, guest, mediator = separate.machine, separate.frontend, separate.mediator
    assert isinstance(mediator, Domain)
    memory_mib = f"xl list | awk '$2 == {guest.domid} {{ print $3 }}'"
    machine.run(f"xl destroy {guest.domid}; {until(f'[ $({memory_mib}) = 0 ]')}", deadline_s=90)
    mediator.destroy()
    assert set(machine.domains.list()) == {"Domain-0"}
