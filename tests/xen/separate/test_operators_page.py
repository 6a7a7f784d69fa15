# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command of docs/xen-host.md, as it stands there. What topology.py does itself is among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.bundle import stage_module
from tests.harness import Machine
from tests.harness.cache import cache_folder
from tests.harness.packages import REPOSITORY, fetch_debian_tree, fetch_kernel_headers
from tests.harness.scripts import until
from tests.harness.tools import run_tool
from tests.xen import page
from tests.xen.topology import Topology
from tests.xen.writer import DISK_IS_THERE

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

RUN_HERE = {"make-image", "mount-image", "build-module"}
RUN_HERE |= {"make-disk", "attach-disk", "grow-disk", "resize-disk", "detach-disk"}
RUN_HERE |= {"declare-disks", "start-guests"}
RUN_FOR_THE_TOPOLOGY = {"create-domains", "start-mediator", "start-backend", "load-module"}
SHADOWVQ_S = 240.0  # each start of Python costs seconds there
SQUASHFS_MAGIC = b"hsqs"


def test_no_block_of_commands_is_left_out() -> None:
    """Each block of the page is run by these tests or by what sets their domains up."""
    assert set(page.scripts()) == RUN_HERE | RUN_FOR_THE_TOPOLOGY


def test_make_image() -> None:
    """The image that is mounted in each domain is made on the user's machine."""
    image = REPOSITORY / "build" / "shadowvq.squashfs"
    image.unlink(missing_ok=True)
    run_tool(["sh", "-c", f"cd {REPOSITORY}; {page.script('make-image')}"])
    assert image.read_bytes()[:4] == SQUASHFS_MAGIC


def test_mount_image(xen: Machine) -> None:
    """It is mounted at /opt/shadowvq. (The machine has it as a disk, and mounts it when it boots: here once more.)"""
    folder = "mkdir -p /run/image; cd /run/image; ln -sf /dev/vdb shadowvq.squashfs; modprobe loop"
    look = "mount | tail -n 1; ls /opt/shadowvq/bin"
    mounted = xen.run(f"{folder}; unshare --mount sh -c '{page.script('mount-image')} {look}'").stdout
    assert "/opt/shadowvq type squashfs (ro" in mounted and "shadowvq\n" in mounted


def test_build_module(tmp_path: Path) -> None:
    """The module builds from what the image has of it. (Here image and headers lie in folders of their own.)"""
    bundled = tmp_path / "opt" / "module"
    stage_module(bundled)
    headers = fetch_kernel_headers(cache_folder(), fetch_debian_tree(cache_folder()).kernel_release)
    script = page.script("build-module")
    for name, here in (("/opt/shadowvq/module", bundled), ("/lib/modules/$(uname -r)/build", headers)):
        assert name in script
        script = script.replace(name, str(here))
    run_tool(["sh", "-c", f"cd {tmp_path}; {script}"])
    assert (tmp_path / "virtio-xenbus" / "virtio_xenbus.ko").exists()


def test_disk_comes_and_goes(separate: Topology) -> None:
    """The module is loaded in the guest, and it gets a disk, a larger one, and none, by the page's commands."""
    guest, dom0 = separate.frontend, separate.machine
    separate.load_module()
    separate.backend.run(f"rm -f /var/lib/shadowvq/disk.img; {page.script('make-disk')}")
    shown = dom0.run(page.script("attach-disk"), deadline_s=SHADOWVQ_S).stdout
    assert f"frontend {guest.domid} (frontend)  device 0" in shown and "bytes_zero_copy" in shown, shown
    size = guest.run(f"{DISK_IS_THERE}; cat /sys/block/vda/size", deadline_s=90).stdout
    assert int(size) == 1 << 30 >> 9
    separate.backend.run(page.script("grow-disk"))
    dom0.run(page.script("resize-disk"), deadline_s=SHADOWVQ_S)
    guest.run(until(f"[ $(cat /sys/block/vda/size) = {2 << 30 >> 9} ]"), deadline_s=90)
    dom0.run(page.script("detach-disk"), deadline_s=SHADOWVQ_S)
    guest.run("[ ! -e /dev/vda ]")
    separate.unload_module()


def test_a_declared_disk_comes_by_itself(separate: Topology) -> None:
    """Declared and served by the page's commands, the guest has its disk without `ctl attach`; with its file the disk
    goes."""
    guest, dom0 = separate.frontend, separate.machine
    separate.load_module()
    separate.backend.run(f"rm -f /var/lib/shadowvq/disk.img; {page.script('make-disk')}")
    dom0.run("sh /opt/shadowvq/deploy/install.sh tools")
    shown = dom0.run(page.script("declare-disks"), deadline_s=SHADOWVQ_S).stdout
    assert "device 0  would be attached" in shown, shown
    dom0.run(page.script("start-guests"), deadline_s=SHADOWVQ_S)
    assert int(guest.run(f"{DISK_IS_THERE}; cat /sys/block/vda/size", deadline_s=90).stdout) == 1 << 30 >> 9
    dom0.run("rm /etc/shadowvq/guests.d/frontend.yaml; systemctl reload shadowvq-guests")
    guest.run(until("[ ! -e /dev/vda ]"), deadline_s=90)
    dom0.run("systemctl disable --now shadowvq-guests")
    separate.unload_module()
