# SPDX-License-Identifier: GPL-2.0-or-later
"""More than one of everything: queues, devices, frontends, workers; and queues that are reset under I/O."""

from __future__ import annotations

import random
import struct

from domU_frontend import blk
from domU_frontend.frontend import Frontend
from xen_shadowvq.xenbus import Phase

from .conftest import Connect, Loop
from .disk_io import batch, goes_on, read_digest, run, write_and_compare
from .world import FRONTEND, OTHER, World

TWO_WORKERS = "workers:\n  count: 2\n"
RESETS = 5


def test_a_queue_is_reset_between_and_under_io(world: World, connect: Connect) -> None:
    """A ring reset with requests in the ring lets them end or be forgotten, and the queue runs again, several times,
    also after a new connection, whose resets count from the start."""
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    for connection in range(2):
        for number in range(RESETS):
            write_and_compare(frontend, random.Random(number), 0)
            frontend.reset_queue(0)
        write_and_compare(frontend, random.Random(connection), 0)
        assert world.status(device)["window_in_use"] == 0
        frontend.disconnect()
        frontend.reconnect()
    write_and_compare(frontend, random.Random(9), 0)


def test_a_queue_is_reset_with_requests_in_flight(world: World, connect: Connect, loop: Loop) -> None:
    """A reset in the middle of I/O on the same queue: what was in flight is left behind, its grants end, and I/O that
    starts after it comes out right."""
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    for seed in range(3):
        going = loop(frontend, seed)
        goes_on(world, going, 2)
        going.abandon()
        frontend.reset_queue(0)
        assert world.status(device)["window_in_use"] == 0
        write_and_compare(frontend, random.Random(seed), 0)


def test_a_reset_that_comes_early_is_carried_out(world: World, connect: Connect) -> None:
    """A reset that is asked for after the rings were published, and before the mediator is Connected, is not
    acknowledged unseen: it is carried out when the queue runs."""
    device = world.attach(world.image("disk.img"))
    world.until_state(device, "InitWait")
    world.mediator.stop()
    with Frontend(device, sim=(world.sim, FRONTEND), pages=2048, queue_size=64) as frontend:
        frontend.side.begin()

        def published() -> bool:
            frontend.side.look()
            return frontend.side.phase is Phase.READY

        world.until(published, "published rings")
        frontend.store.write(f"{frontend.path}/queue-0/reset", "1")
        world.backend.stop()
        world.mediator.resume()
        done = f"{world.found(device).path}/queue-0/reset-done"
        world.until(lambda: world.store.read(done) is not None, "a first count")
        assert (world.store.read(done), world.found(device).state) == ("0", "InitWait")
        world.backend.resume()
        world.until(lambda: world.store.read(done) == "1", "reset")
        assert world.found(device).state == "Connected"


def test_four_queues_on_two_workers(empty_world: World, connect: Connect, loop: Loop) -> None:
    """A device with four queues, served by two workers, reads and writes the right bytes over all of them, and one of
    its queues can be reset while the others stay."""
    empty_world.start_backend()
    empty_world.start_mediator(TWO_WORKERS)
    device = empty_world.attach(empty_world.image("disk.img"), queues=4)
    frontend = connect(device, queues=4)
    going = loop(frontend)
    goes_on(empty_world, going, 20)
    going.stop()
    requests = batch(frontend, blk.IN, 0, [4096] * 8)
    queues = {result.error for result in frontend.driver.run(requests, 8)}
    assert queues == {0}
    frontend.reset_queue(2)
    goes_on(empty_world, loop(frontend, 2), 5)


def test_two_frontends_with_two_devices_each(empty_world: World, connect: Connect, loop: Loop) -> None:
    """Four devices of two frontends on two workers do I/O at once, each with the right bytes, and each image holds
    what its own frontend wrote: nothing ends up on another's disk."""
    empty_world.start_backend()
    empty_world.start_mediator(TWO_WORKERS)
    disks = []
    for domid in (FRONTEND, OTHER):
        for number in range(2):
            image = empty_world.image(f"disk{domid}-{number}.img")
            device = empty_world.attach(image, domid)
            disks.append((image, connect(device, domid, pages=1024, first_gfn=1024 * number)))
    loops = [loop(frontend, seed) for seed, (_, frontend) in enumerate(disks)]
    for one in loops:
        goes_on(empty_world, one)
    for one in loops:
        one.stop()
    for number, (image, frontend) in enumerate(disks):
        mark = struct.pack("<Q", 0xD15C0000 + number) * 512
        requests = batch(frontend, blk.OUT, 0, [len(mark)])
        frontend.driver.memory(requests[0].buffer, len(mark))[:] = mark
        run(frontend, [*requests, blk.Request(blk.FLUSH)])
        assert read_digest(frontend, 65536)
        frontend.disconnect()
        assert image.read_bytes()[: len(mark)] == mark
    marks = {image.read_bytes()[:4096] for image, _ in disks}
    assert len(marks) == len(disks)
