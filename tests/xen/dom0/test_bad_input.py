# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator can get wrong on a Xen host: each is refused with one error that says what to change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import Domain, DomainSpec
from tests.harness.domains import Kind, Userland
from tests.harness.errors import CommandFailed
from tests.harness.scripts import until
from tests.xen import report
from tests.xen.topology import Topology

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

IMAGE = f"{report.IMAGES}/wrong.img"
GONE = 31999  # no domain has this id
NO_PRIVILEGE = "A mediator domain must be PV, and `deploy/set-target` must name its guest before it is first unpaused"


def refused(topology: Topology, **what: int) -> str:
    """The one line with which `ctl attach` ends, for the first guest and dom0 unless said otherwise."""
    ids = {"frontend": topology.frontend.domid, "mediator": 0, "backend": 0} | what
    words = [word for name, domid in ids.items() for word in (f"--{name}", str(domid))]
    with pytest.raises(CommandFailed) as caught:
        topology.operator.run("ctl", "attach", *words, "--timeout", "60", IMAGE)
    (line,) = str(caught.value).splitlines()[1:]
    return line


@pytest.fixture(autouse=True)
def image(together: Topology) -> None:
    """There is nothing wrong with the image."""
    together.machine.run(f"truncate -s 8M {IMAGE}")


@pytest.fixture(scope="module")
def wrong_mediators(together: Topology) -> Iterator[dict[str, Domain]]:
    """A PV domain without a target, and a PVH domain with one: both run the mediator. They boot at once."""
    create, domains = together.machine.domains.create_paused, {}
    try:
        for name, kind in (("no target", Kind.PV), ("not PV", Kind.PVH)):
            spec = DomainSpec(name.replace(" ", "-"), kind, Userland.FULL, memory_mib=256)
            domains[name] = create(spec)
        together.machine.domains.set_target(domains["not PV"].name, together.frontend.name)
        for domain in domains.values():
            domain.unpause()
        for domain in domains.values():
            domain.wait_booted()
            domain.run("/opt/shadowvq/bin/shadowvq mediator >/run/log 2>&1 &")
        yield domains
    finally:
        for domain in domains.values():
            domain.destroy()


@pytest.mark.parametrize("name", ["no target", "not PV"])
def test_mediator_without_privilege(name: str, together: Topology, wrong_mediators: dict[str, Domain]) -> None:
    """A mediator domain that has no target, or is no PV domain, says so when a disk is attached; nothing is left."""
    mediator = wrong_mediators[name]
    line = refused(together, mediator=mediator.domid)
    assert NO_PRIVILEGE in line
    pairs = f"/domain/{mediator.domid}/(backend/virtio|device/svq)/[0-9]|/backend/svq/{mediator.domid}/[0-9]"
    left = f"xenstore-ls -f | grep -E '{pairs}'"
    assert together.machine.start(left).wait().stdout == ""
    assert "Traceback" not in mediator.run("cat /run/log").stdout


@pytest.mark.parametrize(
    ("frames", "version", "arguments", "expected"),
    [
        (16, 1, (), "max_grant_frames is 16, expected at least 32"),
        (64, 2, ("grant_table.version=2",), "set max_grant_version = 1 in its configuration"),
    ],
    ids=["too few grant frames", "grant table version 2"],
)
def test_guest_whose_grant_table_will_not_do(
    frames: int, version: int, arguments: tuple[str, ...], expected: str, together: Topology
) -> None:
    """A guest with too few grant frames, or with a grant table of version 2: the line says what to set."""
    changes = {"max_grant_version": str(version)}
    spec = DomainSpec(
        "odd", Kind.PVH, max_grant_frames=frames, kernel_arguments=arguments, extra_config=changes, modules=()
    )
    with together.machine.domains.running(spec) as guest:
        assert expected in refused(together, frontend=guest.domid)


def test_domains_that_are_not_there(together: Topology) -> None:
    """A frontend, mediator or backend that does not exist is named before anything is written."""
    for role in ("frontend", "mediator", "backend"):
        line = refused(together, **{role: GONE})
        assert str(GONE) in line and role in line


def test_nodes_of_a_guest_that_is_gone(together: Topology) -> None:
    """A guest that is destroyed while no mediator runs leaves its pair behind: the mediator takes it away when it is
    started. A pair that is not whole is refused, with the command that removes it."""
    machine = together.machine
    with machine.domains.running(DomainSpec("gone", Kind.PVH, modules=())) as guest:
        machine.run("systemctl stop shadowvq-mediator", deadline_s=120)
        whole = f"/local/domain/0/backend/virtio/{guest.domid}/{together.attach(IMAGE, frontend=guest, wait=False)}"
    torn = f"/local/domain/0/backend/virtio/{GONE}/0"
    machine.run(f"xenstore-exists {whole}/state && xenstore-write {torn}/frontend-id {GONE} {torn}/state 4")
    machine.run("systemctl start shadowvq-mediator", deadline_s=120)
    machine.run(f"{until(f'! xenstore-exists {whole}')}; {until(f'xenstore-exists {torn}/error')}", deadline_s=90)
    told = machine.run(f"xenstore-read {torn}/error").stdout
    node, command = told.split(": ")[0], told.split(": ")[-1]
    assert node.startswith(torn), told
    assert command.strip() == f"xenstore-rm {torn}", told
    machine.run(command)
    device = together.attach(IMAGE)
    together.detach(device)


def test_service_without_its_devices(together: Topology) -> None:
    """On a Xen host whose module is not loaded the service ends with status 2 and a line that names the module."""
    hidden = "unshare --mount sh -c 'mount -t tmpfs tmpfs /dev/xen; shadowvq mediator'"
    done = together.machine.start(hidden, deadline_s=120).wait()
    assert done.status == 2
    (line,) = done.stderr.splitlines()
    assert "/dev/xen/" in line and "the kernel module xen-" in line


@pytest.mark.parametrize("role", ["mediator", "backend"])
def test_second_service_in_a_domain(role: str, together: Topology) -> None:
    """A second mediator or backend in dom0 ends at once and says why; the first one serves all that time."""
    said = together.machine.run(f"/opt/shadowvq/bin/shadowvq {role} 2>&1 || echo status $?").stdout
    assert (f"another {role} runs in this domain" in said, "status 2" in said) == (True, True), said
    together.machine.run(f"systemctl is-active shadowvq-{role}")
