# SPDX-License-Identifier: GPL-2.0-or-later
"""A backend that maps all that a pass takes up with one call, as it does in a PV domain on Xen."""

from __future__ import annotations

import pytest

from domU_frontend import blk
from domU_frontend.blk import PAGE, Request

from .conftest import Connect
from .world import BACKEND, World

DEPTH = 32
ROUNDS = 20
PAGES = 1024
SECTORS = PAGE // 512


@pytest.mark.parametrize("shares", [False, True])
def test_calls_for_many_requests(shares: bool, world: World, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that a backend takes up together are right, and cost fewer map and unmap calls than there are requests
    where a part of a mapping can be unmapped; elsewhere each has its own."""
    monkeypatch.setenv("SVQ_SIM_PARTS", "1" if shares else "0")
    world.keep_alive(BACKEND)
    world.backend.kill()
    world.start_backend()
    device = world.attach(world.image("disk.img"))
    frontend = connect(device, pages=PAGES, queue_size=128)
    memory, first = frontend.driver, frontend.driver.gpa(frontend.driver.data_first_page)
    requests = [Request(blk.OUT, n * SECTORS, first + n * 2 * PAGE, PAGE) for n in range(DEPTH)]  # scattered pages
    for number, request in enumerate(requests):
        memory.memory(request.buffer, PAGE)[:] = bytes([number + 1]) * PAGE
    for _ in range(ROUNDS):
        results = frontend.driver.run(requests, DEPTH)
        assert [result.status for result in results] == [blk.STATUS_OK] * DEPTH
    status = world.status(device)
    asked, maps, unmaps = (status[f"backend_{name}"] for name in ("writes", "map_calls", "unmap_calls"))
    assert asked == ROUNDS * DEPTH == status["backend_map_pages"]
    assert (maps < asked and unmaps < asked) if shares else maps == unmaps == asked
    image = (world.directory / "disk.img").read_bytes()
    assert image[: DEPTH * PAGE] == b"".join(bytes([number + 1]) * PAGE for number in range(DEPTH))
    frontend.disconnect()
