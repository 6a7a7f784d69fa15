# SPDX-License-Identifier: GPL-2.0-or-later
"""Images whose storage fails under a running device, or is not like other storage."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from domU_frontend import blk
from domU_frontend.blk import Request
from domU_frontend.frontend import Frontend
from xen_shadowvq import devices, toolstack
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.native import load
from xenstore_schema import State, nodes

from .command import ask
from .conftest import Connect
from .disk_io import SECTOR, batch, one, run, write_and_compare
from .root_commands import needs_root, sh
from .world import BACKEND, FRONTEND, MEDIATOR, MIB, OTHER, World


def flush(frontend: Frontend) -> int:
    """A FLUSH, and its status."""
    return frontend.driver.run([Request(blk.FLUSH)], 1)[0].status


@pytest.fixture
def losing_disk(tmp_path: Path) -> Iterator[Path]:
    """A block device of 8 MiB that can keep the first of them only: what is written to the others gets lost later."""
    small = tmp_path / "small"
    small.mkdir()
    with ExitStack() as stack:
        sh("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small))
        stack.callback(sh, "umount", str(small))
        with (small / "disk").open("wb") as file:
            file.truncate(8 * MIB)
        device = sh("losetup", "--find", "--show", str(small / "disk")).strip()
        stack.callback(sh, "losetup", "--detach", device)
        yield Path(device)


@needs_root
def test_after_a_failed_flush_none_succeeds(losing_disk: Path, world: World, connect: Connect) -> None:
    """The system reports lost writes once, yet every later flush fails, also after the guest has connected again and
    the backend's service was restarted; `ctl list` says why; once the disk is attached again, it flushes."""
    world.keep_alive(BACKEND)
    device = world.attach(losing_disk)
    frontend = connect(device)
    assert flush(frontend) == blk.STATUS_OK
    run(frontend, batch(frontend, blk.OUT, 4 * MIB // SECTOR, [65536] * 32))
    assert [flush(frontend) for _ in range(3)] == [blk.STATUS_IOERR] * 3
    path = world.found(device).backend_path
    world.until(lambda: nodes.SvqBack.FLUSH_FAILED.read(world.store.read, path), "flush-failed")
    assert "a flush of the image has failed" in ask("ctl", "list", f"--sim={world.sim}").out
    frontend.disconnect()
    frontend.reconnect()
    assert flush(frontend) == blk.STATUS_IOERR
    frontend.disconnect()
    world.backend.terminate()
    world.start_backend()
    frontend.reconnect()
    assert flush(frontend) == blk.STATUS_IOERR
    run(frontend, batch(frontend, blk.IN, 0, [65536]))
    assert "a flush of the image has failed" in ask("ctl", "list", f"--sim={world.sim}").out
    frontend.disconnect()
    world.detach(device)
    frontend = connect(world.attach(losing_disk))
    assert flush(frontend) == blk.STATUS_OK


@pytest.fixture
def disk_4kn(tmp_path: Path) -> Iterator[Path]:
    """A block device of 1 MiB, all bytes 1, with sectors of 4096 bytes."""
    with ExitStack() as stack:
        (tmp_path / "disk").write_bytes(b"\1" * MIB)
        device = sh("losetup", "--find", "--show", "--sector-size", "4096", str(tmp_path / "disk")).strip()
        stack.callback(sh, "losetup", "--detach", device)
        yield Path(device)


@needs_root
def test_a_discard_amid_4096_byte_sectors(disk_4kn: Path, world: World, connect: Connect) -> None:
    """A discard that begins and ends amid sectors of the disk takes the whole ones in between, and one with no whole
    sector in it takes nothing; neither is an error."""
    frontend = connect(world.attach(disk_4kn))
    for first, count in ((1, 22), (41, 6)):  # in sectors of 512 bytes
        frontend.driver.memory(frontend.driver.gpa(frontend.driver.data_first_page), 16)[:] = struct.pack(
            "<QII", first, count, 0
        )
        assert one(frontend, blk.DISCARD, 0, 16).status == blk.STATUS_OK
    request = batch(frontend, blk.IN, 0, [32768])
    run(frontend, request)
    read = bytes(frontend.driver.memory(request[0].buffer, 32768))
    assert read == b"\1" * 4096 + bytes(4096) + b"\1" * 24576


def test_an_image_that_is_missing_is_looked_for_less_and_less(world: World, connect: Connect) -> None:
    """While the image of a guest that connects again is not there, the backend tries with growing pauses, not without
    end; when it is there again, the guest gets its disk."""
    image = world.image("disk.img")
    device = world.attach(image)
    frontend = connect(device)
    path = world.found(device).backend_path
    image.rename(world.directory / "away.img")
    world.store.watch(f"{path}/state", "state")
    frontend.disconnect()
    events = 0

    def paused() -> bool:
        nonlocal events
        while world.store.next_event(timeout_ms=0) is not None:
            events += 1
        return any(line.get("again_in_s", 0) >= 1.6 for line in world.backend.events("device_broken"))

    world.until(paused, "pause of 1.6 s")
    assert events <= 4 * 10  # states of some rounds: the pauses were 0.05, 0.1, 0.2, 0.4, 0.8 s
    (world.directory / "away.img").rename(image)
    frontend.reconnect(timeout_s=30.0)
    run(frontend, batch(frontend, blk.IN, 0, [65536]))


@pytest.fixture
def freezing(tmp_path: Path) -> Iterator[Path]:
    """A file system that can be frozen: whoever writes to it then waits, and no signal wakes him."""
    folder = tmp_path / "freezing"
    folder.mkdir()
    with ExitStack() as stack:
        with (tmp_path / "file-system").open("wb") as file:
            file.truncate(32 * MIB)
        sh("mkfs.ext4", "-q", str(tmp_path / "file-system"))
        sh("mount", "-o", "loop", str(tmp_path / "file-system"), str(folder))
        stack.callback(sh, "umount", str(folder))
        yield folder


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Freezes the file system within its block."""
    sh("fsfreeze", "--freeze", str(folder))
    try:
        yield
    finally:
        sh("fsfreeze", "--unfreeze", str(folder))


@needs_root
@pytest.mark.parametrize("length", [4096, 65536], ids=["copied", "granted"])
def test_an_image_that_hangs_holds_up_its_own_device_only(
    length: int, freezing: Path, empty_world: World, connect: Connect
) -> None:
    """While one image's file system is frozen, with a write in flight of a device that is to close, and another image
    there cannot even be opened, devices with other images are attached, resized, used and detached; the two go as soon
    as it is thawed."""
    world = empty_world
    world.start_backend(config="grant_copy: never\n")  # the pages of the write in flight are to be mapped
    world.start_mediator("limits: {drain_timeout_ms: 100}\n")
    (freezing / "hangs.img").write_bytes(bytes(MIB))
    (freezing / "unopened.img").write_bytes(bytes(MIB))
    hanging = world.attach(freezing / "hangs.img")
    victim = connect(hanging)
    progress = victim.driver.new_progress()
    path = world.found(hanging).backend_path
    with ThreadPoolExecutor() as pool:
        with frozen(freezing):
            pool.submit(victim.driver.run, batch(victim, blk.OUT, 0, [length]), 1, progress)
            live = "backend_live_requests"
            world.until(lambda: devices.status(world.dom0, world.found(hanging), 10.0)[live], "request in flight")
            unopened = world.attach(freezing / "unopened.img")
            resized = pool.submit(ask, "ctl", "resize", f"--sim={world.sim}", str(FRONTEND), str(hanging))
            with pytest.raises(ConfigError, match=r"still closing|did not let go"):
                toolstack.detach(world.dom0, FRONTEND, hanging, 0.2)
            world.until(lambda: world.store.read(f"{path}/state") == str(int(State.Closing)), "backend that closes")
            use_another(world, connect)
            assert world.store.read(f"{path}/state") == str(int(State.Closing))
            assert world.found(unopened).backend_state == "Initialising"
            with pytest.raises(ConfigError, match="did not let go"):
                toolstack.detach(world.dom0, FRONTEND, unopened, 0.2)
        for path in (nodes.svq_back_path(backend=BACKEND, mediator=MEDIATOR, handle=n) for n in (0, 1)):
            world.until(lambda path=path: world.store.read(f"{path}/state") is None, f"end of {path}")  # type: ignore[misc]
        progress.stop = load("driver").lib.SVQ_DRV_STOP_NOW
        resized.result()


def use_another(world: World, connect: Connect) -> None:
    """Attaches a disk to the other guest, uses it, lets it grow, and takes it away again."""
    image = world.image("other.img", 1)
    device = world.attach(image, OTHER)
    frontend = connect(device, OTHER)
    write_and_compare(frontend, random.Random(1), 0)
    os.truncate(image, 2 * MIB)
    assert ask("ctl", "resize", f"--sim={world.sim}", str(OTHER), str(device)).status == 0
    frontend.disconnect()
    world.detach(device, OTHER)


@needs_root
def test_a_service_ends_although_an_image_hangs(freezing: Path, world: World, connect: Connect) -> None:
    """SIGTERM ends the backend's service after a while, whatever hangs, having closed all other devices."""
    world.keep_alive(BACKEND)
    (freezing / "hangs.img").write_bytes(bytes(MIB))
    with frozen(freezing):
        world.attach(freezing / "hangs.img")
        other = world.attach(world.image("other.img", 1), OTHER)
        frontend = connect(other, OTHER)
        write_and_compare(frontend, random.Random(1), 0)
        world.backend.process.terminate()
        world.until(lambda: world.backend.events("service_stopped"), "service_stopped")
