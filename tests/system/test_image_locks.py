# SPDX-License-Identifier: GPL-2.0-or-later
"""Who else may use an image that a guest has: other devices, other programs, by whatever path."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from domU_frontend import blk

from .command import Done, ask
from .conftest import Connect, connector
from .disk_io import one
from .root_commands import needs_root, sh
from .world import BACKEND, FRONTEND, MEDIATOR, OTHER, World

QEMU = shutil.which("qemu-system-x86_64")
Attach = Callable[..., Done]


@pytest.fixture
def connect(shared_world: World) -> Iterator[Connect]:
    """Like the fixture of conftest.py, but in the world that this module shares."""
    with ExitStack() as stack:
        yield connector(shared_world, stack)


@pytest.fixture
def attach(shared_world: World) -> Iterator[Attach]:
    """`ctl attach` to the second guest; what came of it is taken away after the test."""
    world = shared_world
    world.keep_alive(FRONTEND)

    def attach(path: Path, *options: str) -> Done:
        domains = [f"--frontend={OTHER}", f"--mediator={MEDIATOR}", f"--backend={BACKEND}"]
        return ask("ctl", "attach", f"--sim={world.sim}", *domains, *options, str(path))

    yield attach
    for found in list(world.store.ls(f"/local/domain/{OTHER}/device/virtio")):
        world.detach(int(found), OTHER)


def refused(done: Done, *words: str) -> bool:
    """Status 2, and one line with these words."""
    return done.status == 2 and len(done.err.splitlines()) == 1 and all(word in done.err for word in words)


@pytest.mark.parametrize("way", ["same", "link", "hard-link", "directory-link"])
def test_a_second_writer_is_refused_by_whatever_path(
    way: str, shared_world: World, connect: Connect, attach: Attach, tmp_path: Path
) -> None:
    """An image that one guest writes to is refused to another one, for reading too unless that says so, and the error
    names who has it; once it is detached it can be had."""
    world = shared_world
    image = world.image(f"{way}.img", 1)
    other = tmp_path / "other.img"
    match way:
        case "same":
            other = image
        case "link":
            other.symlink_to(image)
        case "hard-link":
            os.link(image, world.directory / "hard.img")
            other = world.directory / "hard.img"
        case "directory-link":
            (tmp_path / "folder").symlink_to(image.parent)
            other = tmp_path / "folder" / image.name
    device = world.attach(image)
    frontend = connect(device)
    for option in ([], ["--read-only"], ["--shareable"]):
        assert refused(attach(other, *option), str(other), f"mediator {MEDIATOR}, a disk of domain {FRONTEND}")
    assert attach(other, "--read-only", "--shareable").status == 0
    assert one(frontend, blk.OUT, 0).status == blk.STATUS_OK
    assert refused(attach(other, "--shareable"), f"mediator {MEDIATOR}")
    frontend.disconnect()
    world.detach(device)
    world.detach(0, OTHER)
    assert attach(other).status == 0


def test_readers_share_and_writers_that_say_so(shared_world: World, attach: Attach) -> None:
    """Any number of devices read one image, and then none writes to it; writers share one if all of them say so."""
    image, shared = shared_world.image("read.img", 1), shared_world.image("shared.img", 1)
    assert [attach(image, "--read-only").status for _ in range(3)] == [0, 0, 0]
    assert refused(attach(image), "is in use, and not shared")
    assert refused(attach(image, "--shareable"), "is in use, and not shared")
    assert [attach(shared, "--shareable").status for _ in range(2)] == [0, 0]
    assert attach(shared, "--shareable", "--read-only").status == 0
    assert refused(attach(shared), "is written to")
    assert refused(attach(shared, "--read-only"), "is written to")


@needs_root
def test_a_block_device_has_one_writer(shared_world: World, connect: Connect, attach: Attach, tmp_path: Path) -> None:
    """A block device that a guest writes to is refused by another node of it too, and a mounted one is refused."""
    world = shared_world
    with ExitStack() as stack:
        disk = world.image("disk.img", 8)
        sh("mkfs.ext4", "-q", str(disk))
        node = Path(sh("losetup", "--find", "--show", str(disk)).strip())
        stack.callback(sh, "losetup", "--detach", str(node))
        other = tmp_path / "node"
        os.mknod(other, 0o600 | 0o060000, node.stat().st_rdev)
        device = world.attach(node)
        frontend = connect(device)
        for path in (node, other):
            for option in ([], ["--read-only"], ["--shareable"]):
                assert refused(attach(path, *option), str(path), f"a disk of domain {FRONTEND}")
        frontend.disconnect()
        world.detach(device)
        sh("mount", str(node), str(tmp_path))
        try:
            assert refused(attach(node), str(node), "mounted")
        finally:
            sh("umount", str(tmp_path))


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Starts a QEMU whose guest has an image, and does not run; it is ended after the test."""
    pids = tmp_path / "pid"

    def start(image: Path, *options: str) -> subprocess.CompletedProcess[str]:
        drive = ",".join(["if=none", "id=disk", "format=raw", f"file={image}", *options])
        machine = ["-S", "-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-m", "16"]
        device = ["-drive", drive, "-device", "virtio-blk-pci,drive=disk"]
        ending = ["-daemonize", "-pidfile", str(pids)]
        return subprocess.run(
            [str(QEMU), *machine, *device, *ending], capture_output=True, text=True, check=False, timeout=60
        )

    yield start
    if pids.exists():
        os.kill(int(pids.read_text()), signal.SIGKILL)


@pytest.mark.skipif(QEMU is None, reason="QEMU is not here")
def test_qemu_and_we_keep_each_other_out(
    shared_world: World, attach: Attach, qemu: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """An image that a guest of ours has is refused by QEMU, for reading too, and one that it reads for writing; one
    that QEMU has is refused by us, and the error names its process."""
    world = shared_world
    ours, theirs, both = (world.image(name, 1) for name in ("ours.img", "theirs.img", "both.img"))
    assert attach(ours).status == 0
    for option in ("read-only=off", "read-only=on"):
        done = qemu(ours, option)
        assert done.returncode != 0 and "lock" in done.stderr
    assert attach(both, "--read-only").status == 0
    assert qemu(both, "read-only=off").returncode != 0
    assert qemu(theirs).returncode == 0
    assert refused(attach(theirs), str(theirs), "qemu-system")
    assert refused(attach(theirs, "--read-only"), str(theirs), "qemu-system")


@pytest.mark.skipif(QEMU is None, reason="QEMU is not here")
def test_qemu_and_we_read_one_image(
    shared_world: World, attach: Attach, qemu: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """An image that QEMU reads is read by our guest too, and not written."""
    image = shared_world.image("qemu-reads.img", 1)
    assert qemu(image, "read-only=on").returncode == 0
    assert refused(attach(image), "qemu-system")
    assert attach(image, "--read-only").status == 0
