# SPDX-License-Identifier: GPL-2.0-or-later
"""Services that are told to stop, and devices that come and go, leave nothing behind."""

from __future__ import annotations

import random
import subprocess

import pytest

from .command import REPOSITORY, Done, ask, command, run
from .conftest import Connect, Loop
from .disk_io import goes_on, write_and_compare
from .world import BACKEND, DEADLINE_S, FRONTEND, MEDIATOR, OTHER, World, counters_live

ROUNDS = 20


def test_sigterm_ends_the_mediator_cleanly(world: World, connect: Connect, loop: Loop) -> None:
    """SIGTERM in mid-I/O: exit status 0, no page of the frontend is held any more, and its grant table has no entry of
    the mediator's left, for a new process in the same domain counts none."""
    world.keep_alive(MEDIATOR)
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    first = loop(frontend)
    goes_on(world, first)
    assert world.mediator.terminate() == 0
    assert world.mediator.events("service_stopped") == [
        {**world.mediator.events("service_stopped")[0], "devices": 1, "level": "info"}
    ]
    assert world.machine.zombies() == []
    world.start_mediator()
    frontend.wait_closed()
    first.abandon()
    frontend.reconnect()
    assert world.status(device)["window_in_use"] == 0
    goes_on(world, loop(frontend, seed=2))


def test_sigterm_ends_the_backend_cleanly(world: World, connect: Connect, loop: Loop) -> None:
    """SIGTERM in mid-I/O: exit status 0, and the mediator ends all grants with nothing in quarantine."""
    world.keep_alive(BACKEND)
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    first = loop(frontend)
    goes_on(world, first)
    assert world.backend.terminate() == 0
    assert world.backend.events("service_stopped")
    world.start_backend()
    frontend.wait_closed()
    first.abandon()
    assert not world.mediator.events("grants_in_quarantine")
    frontend.reconnect()
    goes_on(world, loop(frontend, seed=2))


@pytest.mark.parametrize("kind", ["mediator", "backend"])
def test_sigterm_right_after_the_start(empty_world: World, kind: str) -> None:
    """A service that has nothing to serve ends at once with status 0, and so does its domain."""
    service = empty_world.start_mediator() if kind == "mediator" else empty_world.start_backend()
    assert service.terminate() == 0
    domid = MEDIATOR if kind == "mediator" else BACKEND
    empty_world.until(lambda: empty_world.machine.state(domid) == "dead", "end of the domain")


@pytest.mark.parametrize("role", ["mediator", "backend"])
def test_a_domain_has_one_service_of_a_role(role: str, world: World, connect: Connect, loop: Loop) -> None:
    """A second process would take the first one's devices and grants for its own: it ends at once and says why, I/O
    goes on; and when the first is killed, the next may start."""
    domid, service = (MEDIATOR, world.mediator) if role == "mediator" else (BACKEND, world.backend)
    frontend = connect(world.attach(world.image("disk.img")))
    first = loop(frontend)
    done = ask(role, f"--sim={world.sim}", f"--domid={domid}")
    assert (done.status, f"another {role} runs in this domain" in done.err) == (2, True)
    goes_on(world, first)
    world.keep_alive(domid)
    service.kill()
    (world.start_mediator if role == "mediator" else world.start_backend)()
    frontend.wait_closed()
    first.abandon()
    frontend.reconnect()
    goes_on(world, loop(frontend, seed=2))


def test_twenty_rounds_of_attach_and_detach_leak_nothing(world: World, connect: Connect) -> None:
    """After twenty devices came, did I/O and went, mediator and backend have the file descriptors, the hypervisor's
    resources and the XenStore nodes that they had before the first."""
    watcher = world.attach(world.image("other.img", 1), OTHER)
    connect(watcher, OTHER)
    image = world.image("disk.img")
    before = None
    for number in range(ROUNDS):
        device = world.attach(image)
        with_io = connect(device)
        write_and_compare(with_io, random.Random(number), 0)
        with_io.disconnect()
        world.detach(device)
        now = (
            counters_live(world.status(watcher, OTHER)), world.device_nodes(), world.mediator.fds(), world.backend.fds()
        )  # fmt: skip
        before = before or now
        assert now == before, f"after round {number}"


def test_a_busy_device_is_detached_by_the_command_line(world: World, connect: Connect, loop: Loop) -> None:
    """`ctl attach` makes a device that works, and `ctl detach` takes it away in mid-I/O: the frontend is told to
    close, requests in flight complete first, and all nodes of both pairs are gone."""
    domains = [f"--frontend={FRONTEND}", f"--mediator={MEDIATOR}", f"--backend={BACKEND}"]
    done = run("ctl", "attach", f"--sim={world.sim}", *domains, str(world.image("disk.img")))
    assert done == Done(0, f"domain {FRONTEND} (dom{FRONTEND}) now has device 0\n", "")
    frontend = connect(0)
    busy = loop(frontend)
    goes_on(world, busy)
    detaching = subprocess.Popen(
        command("ctl", "detach", f"--sim={world.sim}", str(FRONTEND), "0"),
        stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    frontend.wait_closed()
    assert busy.failure is None
    busy.abandon()
    out, _ = detaching.communicate(timeout=DEADLINE_S)
    assert (detaching.returncode, out) == (0, f"device 0 of domain {FRONTEND} (dom{FRONTEND}) is gone\n")
    assert not [path for path in world.device_nodes() if "/virtio/" in path or "/svq/" in path]
    assert not world.mediator.events("grants_in_quarantine")
    assert world.nodes(f"/local/domain/{FRONTEND}/device/virtio/0") == {}
