# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile guest with a user-space driver: only its own device suffers, and the other guest's I/O goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from domU_frontend import blk
from domU_frontend.hostile.attacks import CASES, missing_words
from tests.harness import Domain
from tests.xen import report
from tests.xen.dom0.conftest import Neighbour
from tests.xen.isolation import CONNECT_S, DRIVER_MIB
from tests.xen.remote import Remote
from tests.xen.topology import Topology

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

MAX_VERSION_REFUSED = -38  # ENOSYS: max_grant_version = 1 in the guest's configuration


@pytest.fixture(scope="module")
def villain(together: Topology) -> Iterator[tuple[Remote, int]]:
    """The first guest with the user-space driver, connected; and its device."""
    together.unload_module()  # or the kernel would have the device
    image = f"{report.IMAGES}/villain.img"
    together.machine.run(f"truncate -s 16M {image}")
    device = together.attach(image, frontend=together.frontend, wait=False)
    driver = Remote(together.frontend, "driver", device, DRIVER_MIB)
    driver.call("connect", timeout_s=CONNECT_S)
    assert driver.call("write_and_compare")
    yield driver, device
    driver.call("disconnect")
    driver.kill()
    together.detach(device)


def error_of(topology: Topology, device: int) -> str:
    """The mediator's sentence about the first guest's device."""
    return topology.machine.run(
        f"xenstore-read /local/domain/0/backend/virtio/{topology.frontend.domid}/{device}/error"
    ).stdout.strip()


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_chain_breaks_its_own_device(
    case: str, together: Topology, villain: tuple[Remote, int], neighbour: Neighbour
) -> None:
    """Each malformed chain of the embedded tests, from a guest on real Xen: the mediator says what is wrong with it,
    the other guest's I/O goes on, and the device works again after a new connection."""
    driver, device = villain
    size = driver.call("attack", case=case, memory_end=together.frontend.spec.memory_mib << 20)["size"]
    told = error_of(together, device)
    assert missing_words(case, size, told) == [], told
    neighbour.goes_on()
    driver.call("reconnect")
    assert driver.call("write_and_compare")


def special_frames(guest: Domain) -> dict[str, int]:
    """Frames of the guest that are no RAM of the usual kind, by name."""
    lines = guest.run("cat /proc/iomem").stdout.splitlines()
    memory_end = max(int(line.split("-")[1].split(" ")[0], 16) for line in lines if line.endswith("System RAM"))
    found = {
        "the null frame": 0,
        "the first frame beyond RAM": (memory_end + 1) >> 12,
        "the local APIC": 0xFEE00,
        "special pages of Xen": 0xFEFF8,  # public/hvm: below 4 GiB; console, XenStore and others
        "the largest frame number": (1 << 52) - 1,
    }
    # Linux puts its shared-info page into the first free low page, and its grant table where no RAM is.
    for number, gfn in enumerate(range(1, 4)):
        found[f"low frame {number} (shared info)"] = gfn
    for line in lines:
        if "Xen" in line or "Unpopulated" in line or "xen" in line:
            found[f"{line.strip().split(' : ')[1]} (grant table)"] = int(line.strip().split("-")[0], 16) >> 12
    return found


def test_frames_that_are_no_ram(together: Topology, villain: tuple[Remote, int], neighbour: Neighbour) -> None:
    """Whatever frame a guest names, the grant table and shared info of its own among them: its request ends or its
    device is closed, the mediator goes on, and so does the other guest."""
    driver, _ = villain
    outcomes: dict[str, Any] = {}
    for name, gfn in special_frames(together.frontend).items():
        outcomes[name] = driver.call("read_from_frame", gfn=gfn)
    for name in ("the first frame beyond RAM", "the largest frame number"):
        assert outcomes[name]["closed"] or outcomes[name]["status"] == blk.STATUS_IOERR, outcomes
    neighbour.goes_on()
    assert driver.call("write_and_compare"), outcomes


def test_page_ballooned_out_between_check_and_use(
    together: Topology, villain: tuple[Remote, int], neighbour: Neighbour
) -> None:
    """A page that the mediator knows as RAM and that the guest then gives back to Xen: the request fails or the device
    is closed, nothing else is harmed, and the page's place can be filled and used again."""
    driver, _ = villain
    outcome = driver.call("balloon_out_and_use")
    assert outcome["first_status"] == 0
    assert outcome["closed"] or outcome["status"] != 0, outcome
    neighbour.goes_on()
    assert driver.call("write_and_compare")
    assert together.status(neighbour.device, frontend=neighbour.guest)["held_pages"] == 0


def test_grant_table_version_cannot_change(villain: tuple[Remote, int]) -> None:
    """Xen refuses the guest another version of its grant table than the one in which the mediator writes."""
    driver, _ = villain
    assert driver.call("set_grant_table_version", version=2) == MAX_VERSION_REFUSED
    assert driver.call("write_and_compare")
