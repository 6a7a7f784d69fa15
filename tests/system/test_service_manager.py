# SPDX-License-Identifier: GPL-2.0-or-later
"""A service manager that is told how things are, and one that is not there or has left: nobody is troubled."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from .conftest import Connect, Loop
from .disk_io import goes_on
from .world import FRONTEND, MEDIATOR, World


def listening(path: Path) -> socket.socket:
    """A manager's socket."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(path))
    return manager


def serves_and_ends_well(world: World, connect: Connect, loop: Loop) -> None:
    """The mediator serves a device, and lets go of it on SIGTERM: status 0, and nothing is granted any more."""
    world.keep_alive(MEDIATOR)
    first = loop(connect(world.attach(world.image("disk.img"))))
    goes_on(world, first)
    assert world.mediator.terminate() == 0
    (stopped,) = world.mediator.events("service_stopped")
    assert stopped["devices"] == 1 and world.granted(FRONTEND) == 0
    first.abandon()


def test_a_manager_is_told(empty_world: World, connect: Connect, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service manager hears when the service serves and when it ends."""
    world = empty_world
    world.start_backend()
    with listening(world.directory / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(world.directory / "notify"))
        world.start_mediator()
        assert manager.recv(100) == b"READY=1"
        serves_and_ends_well(world, connect, loop)
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["stale", "missing", "vsock:2:1234", "@nobody", "/" + "x" * 200, "relative/path"])
def test_a_manager_that_cannot_be_told(
    empty_world: World, connect: Connect, loop: Loop, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """A NOTIFY_SOCKET that nobody listens on, that is not there, or is of another kind: the service serves, says so in
    its log, and on SIGTERM lets go of its devices."""
    world = empty_world
    world.start_backend()
    if address == "stale":
        listening(world.directory / "stale").close()
    monkeypatch.setenv("NOTIFY_SOCKET", str(world.directory / address) if address in {"stale", "missing"} else address)
    world.start_mediator()
    assert [line["state"] for line in world.mediator.events("service_manager_not_told")] == ["READY=1"]
    serves_and_ends_well(world, connect, loop)


def test_a_manager_that_vanishes(
    empty_world: World, connect: Connect, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager that was there at the start and is gone at the end changes nothing about the end."""
    world = empty_world
    world.start_backend()
    with listening(world.directory / "notify"):
        monkeypatch.setenv("NOTIFY_SOCKET", str(world.directory / "notify"))
        world.start_mediator()
    (world.directory / "notify").unlink()
    serves_and_ends_well(world, connect, loop)
    assert [line["state"] for line in world.mediator.events("service_manager_not_told")] == ["STOPPING=1"]
