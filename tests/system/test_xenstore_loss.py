# SPDX-License-Identifier: GPL-2.0-or-later
"""The mediator loses its connection to XenStore: requests go on meanwhile, and it looks at everything afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import Connect, Loop
from .disk_io import goes_on
from .proxy import Proxy
from .world import MEDIATOR, OTHER, World


@pytest.fixture
def proxy(empty_world: World) -> Iterator[Proxy]:
    """Stands between the mediator and XenStore; the hypervisor's socket is the machine's own."""
    folder, *sockets = empty_world.before_xenstore(MEDIATOR)
    with Proxy(*sockets) as proxy:
        empty_world.start_backend()
        empty_world.start_mediator(directory=folder)
        yield proxy


def test_io_goes_on_while_xenstore_is_away(empty_world: World, proxy: Proxy, connect: Connect, loop: Loop) -> None:
    """While the mediator cannot reach XenStore, a connected frontend's I/O goes on; a device that was attached
    meanwhile is served once the connection is back, and one that was detached meanwhile goes away."""
    world = empty_world
    device = world.attach(world.image("disk.img"))
    going = loop(connect(device))
    goes_on(world, going)
    unwanted = world.found(world.attach(world.image("unwanted.img"), OTHER), OTHER)
    world.until_state(unwanted.device, "InitWait", OTHER)
    proxy.cut(refuse=True)
    world.until(lambda: world.mediator.events("xenstore_lost"), "xenstore_lost")
    goes_on(world, going)
    other = world.attach(world.image("other.img"), OTHER)
    world.store.write(f"{unwanted.path}/online", "0")
    tried = proxy.accepted
    world.until(lambda: proxy.accepted > tried, "a try to connect again")
    assert world.found(other, OTHER).state == "Initialising"
    goes_on(world, going)

    proxy.allow()
    world.until(lambda: world.mediator.events("xenstore_back"), "xenstore_back")
    world.until(lambda: world.store.read(f"{unwanted.path}/state") is None, "end of the device that was detached")
    goes_on(world, loop(connect(other, OTHER), 2))
    assert world.status(device)["state"] == "connected"
    goes_on(world, going)
    going.stop()


def test_every_cut_is_survived(empty_world: World, proxy: Proxy, connect: Connect, loop: Loop) -> None:
    """The connection is cut ten times, also in the middle of a device's set-up, and each time the device can be
    connected, used up and detached, and the mediator answers."""
    world = empty_world
    other = world.attach(world.image("other.img"), OTHER)
    going = loop(connect(other, OTHER))
    for number in range(10):
        device = world.attach(world.image("disk.img"))
        if number % 2:
            world.until_state(device, "InitWait")
        proxy.cut()
        connect(device).disconnect()
        world.detach(device)
        world.status(other, OTHER)
    goes_on(world, going)
    going.stop()
    assert world.mediator.process.poll() is None
