# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole product on real Xen: both services in dom0, a disk in a PVH guest with the kernel's own virtio_blk."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Domain, DomainSpec, Machine
from tests.harness.cache import cache_folder
from tests.harness.domains import Kind
from tests.harness.packages import REPOSITORY, fetch_debian_tree
from tests.harness.tools import run_tool

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

SERVICES = ("mediator", "backend")
SHADOWVQ = "python3 -m xen_shadowvq"
IMAGE = "/run/guest-disk/disk.img"
IMAGE_MIB = 32
# A direct window for 256 MiB takes 130 frames, and 32 are left to the guest.
GUEST = DomainSpec(
    "guest", Kind.PVH, memory_mib=256, max_grant_frames=256, modules=("virtio_blk", "crc32c_generic", "ext4")
)
# Emulated, a Python program with the project's imports takes some 15 s to start.
CTL_DEADLINE_S = 180.0


@pytest.fixture(scope="module")
def kernel_module(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """virtio_xenbus.ko for the kernel that guests run; its headers have to be installed on this machine."""
    release = fetch_debian_tree(cache_folder()).kernel_release
    build = Path("/lib/modules") / release / "build"
    if not (build / "Makefile").exists():
        pytest.fail(f"no kernel headers in {build}: install the package linux-headers-{release}")
    folder = tmp_path_factory.mktemp("module")
    source = folder / "domU_frontend" / "module"
    built = shutil.ignore_patterns("*.o", "*.ko", "*.mod*", ".*", "Module.symvers")
    shutil.copytree(REPOSITORY / "domU_frontend" / "module", source, ignore=built)
    shutil.copytree(REPOSITORY / "xenstore_schema" / "include", folder / "xenstore_schema" / "include")
    run_tool(["make", "-C", source, f"KDIR={build}"])
    run_tool(["strip", "--strip-debug", source / "virtio_xenbus.ko"])
    return (source / "virtio_xenbus.ko").read_bytes()


@pytest.fixture(scope="module")
def dom0(xen: Machine) -> Iterator[Machine]:
    """The machine with both services in dom0; they end well when they are told to."""
    xen.run("echo 65536 > /sys/module/xen_gntalloc/parameters/limit")
    started = " & ".join(
        f"systemd-run --quiet --unit=shadowvq-{name} --service-type=notify -p TimeoutStartSec=240 {SHADOWVQ} {name}"
        for name in SERVICES
    )
    xen.run(f"{started} & wait; systemctl is-active shadowvq-mediator shadowvq-backend", deadline_s=300)
    yield xen
    for name in SERVICES:
        unit = f"shadowvq-{name}"
        xen.run(f"systemctl is-active {unit} && systemctl stop {unit} && ! systemctl is-failed {unit}", deadline_s=120)


@pytest.fixture
def image(dom0: Machine) -> Iterator[str]:
    """A raw image in dom0's memory, the first part of it random; its path."""
    dom0.run(
        f"mkdir -p $(dirname {IMAGE}) && truncate -s {IMAGE_MIB}M {IMAGE} && "
        f"dd if=/dev/urandom of={IMAGE} bs=1M count=4 conv=notrunc"
    )
    yield IMAGE
    dom0.run(f"rm {IMAGE}")


@pytest.fixture
def guest(dom0: Machine, kernel_module: bytes) -> Iterator[Domain]:
    """A running PVH guest with the transport's module loaded; its destruction fails the test if a zombie is left."""
    with dom0.domains.running(GUEST) as domain:
        domain.put("/virtio_xenbus.ko", kernel_module)
        domain.run("insmod /virtio_xenbus.ko")
        yield domain


def until(condition: str) -> str:
    """A shell script that waits for a condition, some minute at most."""
    return f"turns=0; until {condition}; do turns=$((turns + 1)); [ $turns -lt 600 ] || exit 1; sleep 0.1; done"


def ctl(dom0: Machine, *words: str) -> str:
    """Runs `shadowvq ctl` in dom0 and returns what it prints."""
    command = " ".join((SHADOWVQ, "ctl", *words))
    return dom0.run(command, deadline_s=CTL_DEADLINE_S).stdout


def attach(dom0: Machine, guest: Domain, image: str, *options: str) -> int:
    """Attaches the image and waits until the guest has /dev/vda; returns the device id."""
    answer = json.loads(
        ctl(dom0, "attach", "--frontend", str(guest.domid), "--timeout", "60", "--json", *options, image)
    )
    guest.run(until("[ -b /dev/vda ]"), deadline_s=90)
    return int(answer["device"])


def detach(dom0: Machine, guest: Domain, device: int) -> None:
    """Detaches a device: its nodes are gone then, and soon the guest's disk."""
    ctl(dom0, "detach", str(guest.domid), str(device))
    assert pairs(dom0) == []
    guest.run(until('[ -z "$(ls /sys/bus/virtio/devices)" ]') + "; [ ! -e /dev/vda ]", deadline_s=90)


def status(dom0: Machine, guest: Domain, device: int) -> dict[str, Any]:
    """The mediator's counters of one device."""
    answer: dict[str, Any] = json.loads(ctl(dom0, "status", "--timeout", "60", "--json", str(guest.domid), str(device)))
    return answer


def checksum(where: Machine | Domain, path: str) -> str:
    """The MD5 sum of a file's or device's whole content; of a device as it is behind the page cache."""
    forget = "echo 3 > /proc/sys/vm/drop_caches" if isinstance(where, Domain) else "true"
    return where.run(f"sync; {forget}; md5sum {path}", deadline_s=120).stdout.split()[0]


def pairs(dom0: Machine) -> list[str]:
    """Every node of every device, on both legs."""
    roots = ("/local/domain/0/backend/virtio", "/local/domain/0/backend/svq", "/local/domain/0/device/svq")
    listing = dom0.run("; ".join(f"xenstore-ls -f {root} 2>/dev/null || true" for root in roots)).stdout
    return [line for line in listing.splitlines() if line.split(" ")[0] not in roots]


def test_file_system_on_a_disk(dom0: Machine, guest: Domain, image: str) -> None:
    """The guest reads what the image holds, and what it writes through a file system the image then holds."""
    device = attach(dom0, guest, image)
    assert checksum(guest, "/dev/vda") == checksum(dom0, image)

    guest.run(
        "busybox mke2fs -F /dev/vda && mkdir /mnt && mount -t ext4 /dev/vda /mnt && "
        "dd if=/dev/urandom of=/written bs=1M count=8 && cp /written /mnt/large && "
        "for i in 1 2 3 4 5 6 7 8; do echo $i > /mnt/small-$i; done; sync; umount /mnt",
        deadline_s=180,
    )
    assert checksum(guest, "/dev/vda") == checksum(dom0, image)
    guest.run("mount -t ext4 -o ro /dev/vda /mnt && [ $(cat /mnt/small-* | tr -d '\\n') = 12345678 ]")
    assert checksum(guest, "/mnt/large") == checksum(guest, "/written")
    guest.run("umount /mnt")

    counters = status(dom0, guest, device)
    assert counters["window"] == "direct"
    assert counters["completions"] == counters["chains"] > 0
    assert counters["revokes"] == counters["grants"] > 0
    assert (counters["window_in_use"], counters["quarantined"]) == (0, 0)
    assert counters["bytes_zero_copy"] > 2 * IMAGE_MIB << 20

    detach(dom0, guest, device)


def test_image_survives_another_placement(dom0: Machine, guest: Domain, image: str) -> None:
    """A disk that was detached while it was written to is whole, and can be attached again, with every byte copied."""
    device = attach(dom0, guest, image)
    guest.run("dd if=/dev/urandom of=/written bs=1M count=2 && dd if=/written of=/dev/vda bs=64k conv=fsync")
    # By a node of its own: the one in /dev goes away, and dd would make a plain file there.
    guest.run("cp -a /dev/vda /disk; (while dd if=/written of=/disk bs=64k conv=fsync; do :; done) >/dev/null 2>&1 &")
    detach(dom0, guest, device)

    device = attach(dom0, guest, image, "--placement", "copy")
    assert checksum(guest, "/dev/vda") == checksum(dom0, image)
    assert guest.run("dd if=/dev/vda bs=64k count=32 | md5sum").stdout.split()[0] == checksum(guest, "/written")
    counters = status(dom0, guest, device)
    assert (counters["grants"], counters["bytes_zero_copy"]) == (0, 0)
    assert counters["bytes_bounced"] >= IMAGE_MIB << 20


def test_guest_is_destroyed_with_its_disk(dom0: Machine, guest: Domain, image: str) -> None:
    """A guest that is destroyed while it writes leaves no zombie; both services let go of its device by themselves."""
    attach(dom0, guest, image)
    guest.run("(while dd if=/dev/zero of=/dev/vda bs=64k count=64 conv=fsync; do :; done) >/dev/null 2>&1 &")
    guest.destroy()

    assert set(dom0.domains.list()) == {"Domain-0"}
    gone = " && ".join(
        f'[ -z "$(xenstore-list {root} 2>/dev/null)" ]'
        for root in ("/local/domain/0/backend/virtio", "/local/domain/0/backend/svq", "/local/domain/0/device/svq")
    )
    dom0.run(until(gone), deadline_s=90)
    assert pairs(dom0) == []
