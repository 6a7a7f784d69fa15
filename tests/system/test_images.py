# SPDX-License-Identifier: GPL-2.0-or-later
"""Images that cannot be used, and images that change under a running device."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from domU_frontend import blk
from domU_frontend.frontend import BlkGeometry
from xen_shadowvq import devices
from xenstore_schema import nodes

from .command import ask
from .conftest import Connect, connector
from .disk_io import SECTOR, IoLoop, goes_on, one, read_digest, write_and_compare
from .world import BACKEND, FRONTEND, MEDIATOR, MIB, OTHER, World

RO_FEATURE = 1 << 5


@pytest.fixture
def connect(shared_world: World) -> Iterator[Connect]:
    """Like the fixture of conftest.py, but in the world that this module shares."""
    with ExitStack() as stack:
        yield connector(shared_world, stack)


@pytest.fixture(scope="module", autouse=True)
def alive(shared_world: World) -> None:
    """Frontend domains outlive the tests' frontends."""
    shared_world.keep_alive(FRONTEND)
    shared_world.keep_alive(OTHER)


def make(kind: str, folder: Path) -> Path:
    """Something that is no image."""
    path = folder / f"{kind}.img"
    match kind:
        case "directory":
            path.mkdir()
        case "empty":
            path.touch()
        case "too-small":
            path.write_bytes(b"x" * (SECTOR - 1))
        case "link-to-itself":
            path.symlink_to(path)
        case "pipe":
            os.mkfifo(path)
    return path


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "too-small", "link-to-itself", "pipe"])
def test_attach_names_an_image_that_cannot_be_used(kind: str, shared_world: World, tmp_path: Path) -> None:
    """`ctl attach` ends with status 2 and one line that names the image, and leaves no device behind."""
    path = make(kind, tmp_path)
    domains = [f"--frontend={FRONTEND}", f"--mediator={MEDIATOR}", f"--backend={BACKEND}"]
    done = ask("ctl", "attach", f"--sim={shared_world.sim}", *domains, str(path))
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1 and str(path) in done.err
    assert devices.list_devices(shared_world.dom0) == []


def test_a_truncated_image_fails_only_the_requests_beyond_its_end(shared_world: World, connect: Connect) -> None:
    """When the file shrinks under a running device, requests beyond the new end end with IOERR, all others go on, and
    so does another device."""
    other = IoLoop(connect(shared_world.attach(shared_world.image("other.img"), OTHER), OTHER))
    image = shared_world.image("shrinks.img")
    frontend = connect(shared_world.attach(image))
    digest = read_digest(frontend, 2 * MIB)
    os.truncate(image, 2 * MIB)
    assert one(frontend, blk.IN, 3 * MIB // SECTOR).status == blk.STATUS_IOERR
    assert one(frontend, blk.IN, 2 * MIB // SECTOR - 8).status == blk.STATUS_OK
    assert read_digest(frontend, 2 * MIB) == digest
    goes_on(shared_world, other)
    other.stop()
    shared_world.detach(0)
    shared_world.detach(0, OTHER)


def test_a_read_only_disk_is_never_written(shared_world: World, connect: Connect) -> None:
    """A disk attached read-only offers the feature RO, answers writes, zeroes and discards with an error each, goes on
    reading, and its image stays as it was."""
    image = shared_world.image("read-only.img")
    before = image.read_bytes()
    frontend = connect(shared_world.attach(image, read_only=True))
    assert frontend.features & RO_FEATURE
    digest = read_digest(frontend, MIB)
    eight_sectors = struct.pack("<QII", 0, 8, 0)  # of DISCARD and WRITE_ZEROES
    frontend.driver.memory(frontend.driver.gpa(frontend.driver.data_first_page), 16)[:] = eight_sectors
    assert one(frontend, blk.OUT, 0).status == blk.STATUS_IOERR
    assert one(frontend, blk.WRITE_ZEROES, 0, 16).status in {blk.STATUS_IOERR, blk.STATUS_UNSUPP}
    assert one(frontend, blk.DISCARD, 0, 16).status in {blk.STATUS_IOERR, blk.STATUS_UNSUPP}
    assert read_digest(frontend, MIB) == digest
    assert image.read_bytes() == before
    shared_world.detach(0)


def test_an_image_of_another_size_reaches_the_frontend(shared_world: World, connect: Connect) -> None:
    """`ctl resize` after the image grew: a connected frontend sees the new size, with the mediator's own limits still
    in force, and writes where there was nothing before; after it shrank, the device refuses what is beyond."""
    world = shared_world
    image = world.image("grown.img", 1)
    device = world.attach(image)
    frontend = connect(device)
    limits = frontend.geometry.segments_max
    end = frontend.geometry.sectors
    assert one(frontend, blk.IN, end).status == blk.STATUS_IOERR
    for generation, factor, status in ((1, 2, blk.STATUS_OK), (2, 1, blk.STATUS_IOERR)):
        os.truncate(image, factor * MIB)
        done = ask("ctl", "resize", f"--sim={world.sim}", str(FRONTEND), str(device))
        assert (done.status, done.err) == (0, "") and f"{factor * MIB:,} bytes" in done.out
        back, path = nodes.VirtioBack, world.found(device).path
        assert back.CONFIG_GENERATION.read(world.store.read, path) == generation
        told = BlkGeometry.parse(back.CONFIG.read(world.store.read, path) or b"")
        assert (told.sectors, told.segments_max) == (factor * end, limits)
        assert one(frontend, blk.OUT, end).status == status
        write_and_compare(frontend, random.Random(generation), 0)
    assert image.stat().st_size == MIB
    world.detach(device)


def test_resize_says_why_not(shared_world: World, connect: Connect) -> None:
    """An image that has become too small leaves the device as it is, and an unknown device is named: status 2 and one
    line."""
    world = shared_world
    image = world.image("shrunk.img", 1)
    device = world.attach(image)
    frontend = connect(device)
    os.truncate(image, 100)
    done = ask("ctl", "resize", f"--sim={world.sim}", str(FRONTEND), str(device))
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "shrunk.img" in done.err and "smaller than one block" in done.err
    os.truncate(image, MIB)
    assert one(frontend, blk.IN, frontend.geometry.sectors - 8).status == blk.STATUS_OK
    assert ask("ctl", "resize", f"--sim={world.sim}", str(FRONTEND), "77").status == 2
    world.detach(device)
