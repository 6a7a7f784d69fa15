# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypervisor seam's Xen side does on real Xen what svq_hv.h promises."""

from collections.abc import Iterator

import pytest

from tests.harness import Domain, DomainSpec, Machine
from tests.harness.channel import Result
from tests.harness.domains import Kind, Userland
from tests.harness.scripts import until

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

FRONTEND_MAX_FRAMES = 128
PROGRAM = "/opt/shadowvq/payload/seam_check"
GRANTEE = "/opt/shadowvq/payload/seam_grantee"
MEDIATOR = DomainSpec("mediator", Kind.PV, Userland.FULL, memory_mib=384)


@pytest.fixture
def frontend(xen: Machine) -> Iterator[Domain]:
    """A PVH guest that never runs: nobody but the test touches its memory and its grant table."""
    spec = DomainSpec("frontend", Kind.PVH, max_grant_frames=FRONTEND_MAX_FRAMES)
    domain = xen.domains.create_paused(spec)
    yield domain
    domain.destroy()


def assert_all_ok(result: Result) -> None:
    """Fails with the program's own words unless it ran to its end and every check held."""
    *checks, plan = result.stdout.splitlines() or [""]
    failed = [line for line in checks if not line.startswith("ok - ")]
    whole = f"status {result.status}\n{result.stdout}{result.stderr}"
    assert not failed, "\n".join(failed) + f"\n---\n{whole}"
    assert plan == f"1..{len(checks)}", whole
    assert result.status == 0, whole


@pytest.fixture
def other(xen: Machine) -> Iterator[Domain]:
    """Another guest, with which the mediator has nothing to do."""
    domain = xen.domains.create_paused(DomainSpec("other", Kind.PVH))
    yield domain
    domain.destroy()


def check_from_dom0(xen: Machine, frontend: Domain, other: Domain) -> Result:
    """Runs the checks with dom0 as the mediator."""
    arguments = f"0 {frontend.domid} {FRONTEND_MAX_FRAMES} dom0 {other.domid}"
    return xen.start(f"{PROGRAM} {arguments}", deadline_s=120).wait()


def test_dom0_mediates(xen: Machine, frontend: Domain, other: Domain) -> None:
    """dom0 can use every operation of the seam on a guest, by handles that reach no other, and lets go of all of it."""
    assert_all_ok(check_from_dom0(xen, frontend, other))


def test_mediator_domain_mediates(xen: Machine, frontend: Domain) -> None:
    """A PV domain with device-model privilege over one guest can do the same to it, and nothing to dom0."""
    with xen.domains.running(MEDIATOR, target=frontend) as mediator:
        arguments = f"{mediator.domid} {frontend.domid} {FRONTEND_MAX_FRAMES} mediator 0"
        result = mediator.start(f"{PROGRAM} {arguments}", deadline_s=120).wait()

    assert_all_ok(result)


def test_a_mapped_entry_is_its_grantees_alone(xen: Machine, frontend: Domain) -> None:
    """No other domain maps an entry that is mapped, though the entry names it by now; after the last unmap it does."""
    again = f"{GRANTEE} map {frontend.domid}"
    with xen.domains.running(MEDIATOR, target=frontend) as mediator:
        holder = mediator.start(f"{GRANTEE} hold {mediator.domid} {frontend.domid} /run", deadline_s=90)
        mediator.run(until("[ -e /run/held ]"))
        while_held = xen.start(again).wait()
        mediator.run("touch /run/let-go")
        holder.check()
        afterwards = xen.start(again).wait()

    assert (while_held.status, afterwards.status) == (1, 0), f"{while_held}, {afterwards}"


def test_nothing_is_left_behind(xen: Machine, frontend: Domain, other: Domain) -> None:
    """A guest whose memory and grants were mapped is gone after its destruction: nobody holds a page of it."""
    assert_all_ok(check_from_dom0(xen, frontend, other))
    frontend.destroy()

    assert set(xen.domains.list()) == {"Domain-0", other.name}
