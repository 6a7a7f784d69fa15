# SPDX-License-Identifier: GPL-2.0-or-later
"""Each of the three is killed in the middle of I/O, and the other two let go of it and go on."""

from __future__ import annotations

import pytest

from domU_frontend import blk
from domU_frontend.blk import PAGE
from xen_shadowvq import toolstack
from xen_shadowvq.errors import ConfigError

from .conftest import Connect, Loop
from .disk_io import goes_on, one
from .world import BACKEND, FRONTEND, MEDIATOR, OTHER, World, counters_live

SHORT_S = 0.3


def granted_for_good(world: World, device: int) -> int:
    """How many grants are alive once there are no more and no fewer: the backend answers nothing."""
    seen = [0]

    def settled() -> bool:
        seen.append(world.status(device)["window_in_use"])
        return seen[-1] == seen[-2] > 0

    world.until(settled, "requests that wait for the backend")
    return seen[-1]


def test_a_killed_frontend_leaves_nothing_behind(world: World, connect: Connect, loop: Loop) -> None:
    """After SIGKILL of a frontend in mid-I/O the mediator holds what it held before, its nodes are gone everywhere,
    the domain is no zombie, and another frontend's I/O goes on with the right bytes."""
    other_device = world.attach(world.image("other.img"), OTHER)
    other = loop(connect(other_device, OTHER))
    goes_on(world, other)
    held, nodes, fds = counters_live(world.status(other_device, OTHER)), world.device_nodes(), world.backend.fds()

    device = world.attach(world.image("victim.img"))
    child = world.start_child(FRONTEND, device)
    world.until(lambda: child.events("io_going"), "I/O of the victim")
    assert counters_live(world.status(other_device, OTHER)) != held
    child.kill()

    world.until(lambda: world.machine.state(FRONTEND) == "dead" and not world.machine.zombies(), "end of the domain")
    world.until(lambda: world.device_nodes() == nodes, "end of the victim's nodes")
    assert counters_live(world.status(other_device, OTHER)) == held
    assert world.backend.fds() == fds
    goes_on(world, other)
    other.stop()


def test_a_frontend_domain_comes_back_under_its_old_id(world: World) -> None:
    """A new domain with the domid of one that was killed gets a disk and does I/O: nothing of the old one is in its
    way."""
    image = world.image("disk.img")
    for _ in range(2):
        device = world.attach(image)
        child = world.start_child(FRONTEND, device)
        world.until(lambda child=child: child.events("io_going"), "I/O")  # type: ignore[misc]
        assert child.events("io_going")[0]["failure"] is None
        child.kill()
        world.until(lambda: world.machine.state(FRONTEND) == "dead", "end of the domain")
        world.add_domain(FRONTEND)


def test_a_killed_backend_is_replaced(world: World, connect: Connect, loop: Loop) -> None:
    """After SIGKILL of the backend's process in mid-I/O the frontend is told to close instead of hanging, the mediator
    lets go of all that is the guest's, and with a new process in the same domain a reconnect works, in the pages of the
    mediator's that the backend's domain has seen before."""
    world.keep_alive(BACKEND)
    image = world.image("disk.img")
    device = world.attach(image)
    world.until_state(device, "InitWait")
    held = counters_live(world.status(device))
    frontend = connect(device)
    loops = [loop(frontend)]
    goes_on(world, loops[0])
    world.backend.kill()

    world.start_backend()  # finds a pair in the middle of its life, and offers afresh
    frontend.wait_closed()
    loops[0].abandon()
    world.until_state(device, "Closed")
    arena = "mediator_shared_pages_live"
    closed = counters_live(world.status(device))
    assert {**closed, arena: 0} == held

    frontend.reconnect()
    loops.append(loop(frontend, seed=2))
    goes_on(world, loops[1])
    assert counters_live(world.status(device))[arena] == closed[arena] > 0
    loops[1].stop()


def test_a_dead_backend_domain_is_let_go(world: World, connect: Connect, loop: Loop) -> None:
    """When the backend's whole domain dies in mid-I/O, the frontend is told to close, nobody keeps a page of the dead
    domain, and after the toolstack made domain and device anew the same frontend gets the disk again."""
    image = world.image("disk.img")
    device = world.attach(image)
    frontend = connect(device)
    first = loop(frontend)
    goes_on(world, first)
    world.backend.kill()

    frontend.wait_closed()
    first.abandon()
    world.until(lambda: world.machine.state(BACKEND) == "dead", "end of the backend's domain")
    assert world.machine.zombies() == []
    world.detach(device)
    world.add_domain(BACKEND)
    world.start_backend()
    assert world.attach(image, device=device) == device
    frontend.reconnect()
    second = loop(frontend, seed=2)
    goes_on(world, second)
    second.stop()


def test_a_killed_mediator_is_replaced(world: World, connect: Connect, loop: Loop) -> None:
    """After SIGKILL of the mediator's process with requests in flight the frontend is told nothing until a new one in
    the same domain has taken back what the old one had granted. Then it closes, and serves again: both reconnect."""
    world.keep_alive(MEDIATOR)
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    first = loop(frontend)
    goes_on(world, first)
    world.backend.stop()
    granted_for_good(world, device)
    world.mediator.kill()
    assert world.granted(FRONTEND) > 0
    with pytest.raises(ConfigError, match="was not closed within"):
        frontend.wait_closed(SHORT_S)

    world.start_mediator()
    world.backend.resume()
    frontend.wait_closed()
    assert world.granted(FRONTEND) == 0
    first.abandon()
    assert world.mediator.events("stale_grants_ended") or world.mediator.events("pages_held")
    assert world.machine.zombies() == []
    frontend.reconnect()
    second = loop(frontend, seed=2)
    goes_on(world, second)
    second.stop()
    assert world.status(device)["window_in_use"] == 0


def test_a_dead_mediator_domain_is_let_go(world: World, connect: Connect, loop: Loop) -> None:
    """When the mediator's whole domain dies in mid-I/O, frontend and backend see it go and keep nothing of it; the
    frontend has its buffers back when dom0 has taken away what was granted, and is served again in a new domain."""
    image = world.image("disk.img")
    device = world.attach(image)
    frontend = connect(device)
    first = loop(frontend)
    goes_on(world, first)
    fds = world.backend.fds()
    world.mediator.kill()

    with pytest.raises(ConfigError, match="was not closed within"):
        frontend.wait_closed(SHORT_S)
    first.abandon()
    world.until(lambda: world.machine.state(MEDIATOR) == "dead", "end of the mediator's domain")
    assert world.machine.zombies() == []
    world.until(lambda: world.backend.fds() < fds, "backend that closed image and rings")
    world.store.rm(f"/local/domain/{MEDIATOR}")
    world.detach(device)
    assert world.granted(FRONTEND) == 0
    frontend.wait_closed()
    world.add_domain(MEDIATOR)
    world.start_mediator()
    world.attach(image, device=device)
    frontend.reconnect()
    second = loop(frontend, seed=2)
    goes_on(world, second)
    second.stop()


@pytest.mark.parametrize("domid", [FRONTEND, BACKEND, MEDIATOR], ids=["frontend", "backend", "mediator"])
def test_a_domain_that_vanishes_from_xenstore_is_noticed(domid: int, world: World, connect: Connect) -> None:
    """When dom0 removes a domain's whole directory, as `xl destroy` does, its neighbours hear of it by their watches
    alone, though they may read little of that directory: they close their connection to it."""
    device = world.attach(world.image("disk.img"))
    connect(device)
    held = world.backend.fds()
    world.store.rm(f"/local/domain/{domid}")
    if domid != MEDIATOR:
        world.until(lambda: world.mediator.events("device_closed"), "end of the connection in the mediator")
    if domid != BACKEND:
        world.until(lambda: world.backend.fds() < held, "end of the connection in the backend")


def test_handle_of_a_slow_backend_is_not_given_out_again(world: World, connect: Connect) -> None:
    """A slow backend still has its half of a device when the mediator has removed its own. A disk that
    is attached then gets another handle: it is served, with its own image."""
    first = world.attach(world.image("first.img"))
    frontend = connect(first)
    old = world.found(first).handle
    frontend.disconnect()
    world.backend.stop()
    with pytest.raises(ConfigError, match="did not let go"):
        toolstack.detach(world.dom0, FRONTEND, first, 1.0)
    second = world.attach(world.image("second.img"))
    assert world.found(second).handle != old
    world.backend.resume()
    served = connect(second)
    content = (world.directory / "second.img").read_bytes()[:PAGE]
    one(served, blk.IN, 0)
    assert bytes(served.driver.memory(served.driver.gpa(served.driver.data_first_page), PAGE)) == content
