# SPDX-License-Identifier: GPL-2.0-or-later
"""Services whose log cannot be written go on serving, and a guest that does its worst cannot fill it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from xen_shadowvq.domain import xenstore_socket
from xen_shadowvq.log_limit import OF_A_DEVICE
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes

from .command import REPOSITORY
from .conftest import Connect
from .disk_io import write_and_compare
from .world import BACKEND, DEADLINE_S, FRONTEND, MEDIATOR, World

CLOSED = ["sh", "-c", 'exec "$@" 2>&-', "sh"]
ROUNDS = 400


@contextmanager
def bad_stream(kind: str) -> Iterator[int]:
    """A descriptor that takes no line: a full disk, a pipe whose reader has left, and one whose reader sleeps."""
    with ExitStack() as stack:
        if kind == "full disk":
            yield stack.enter_context(Path("/dev/full").open("wb")).fileno()
            return
        reader, writer = os.pipe()
        stack.callback(os.close, writer)
        if kind == "reader left":
            os.close(reader)
        else:
            stack.callback(os.close, reader)
            os.set_blocking(writer, False)
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(writer, bytes(4096))
            os.set_blocking(writer, True)
        yield writer


@pytest.mark.parametrize("kind", ["full disk", "reader left", "reader sleeps", "closed"])
@pytest.mark.parametrize("deaf", ["mediator", "backend"])
def test_a_log_that_cannot_be_written_ends_no_service(
    empty_world: World, connect: Connect, deaf: str, kind: str
) -> None:
    """A disk is attached, does I/O and is detached, and SIGTERM ends the service with status 0, as if it had a log."""
    world = empty_world
    domid = {"mediator": MEDIATOR, "backend": BACKEND}[deaf]
    world.start_backend() if deaf == "mediator" else world.start_mediator()
    arguments = [sys.executable, "-m", "xen_shadowvq", deaf, "--sim", str(world.sim), "--domid", str(domid)]
    with bad_stream("full disk" if kind == "closed" else kind) as stderr:
        command = [*CLOSED, *arguments] if kind == "closed" else arguments
        service = subprocess.Popen(command, stderr=stderr, cwd=REPOSITORY)
        try:
            device = world.attach(world.image("disk.img"))
            frontend = connect(device)
            write_and_compare(frontend, random.Random(1), 0)
            frontend.disconnect()
            world.detach(device)
            service.terminate()
            assert service.wait(DEADLINE_S) == 0
        finally:
            service.kill()
            service.wait()


def test_a_guest_cannot_fill_the_log(world: World) -> None:
    """A guest that writes ever new nonsense, makes its nodes unreadable and begins ever new rounds, as fast as it can,
    causes few lines."""
    device = world.attach(world.image("disk.img"))
    world.until_state(device, "InitWait")
    front = nodes.virtio_front_path(frontend=FRONTEND, device=device)
    with XenStore.connect(str(xenstore_socket(world.sim, FRONTEND))) as guest:
        for number in range(ROUNDS):
            guest.write(f"{front}/features-accepted", f"nonsense {number}")
            guest.set_perms(f"{front}/features-accepted", [f"n{FRONTEND}" if number % 3 == 0 else f"b{FRONTEND}"])
            for state in ("3", "6", "1", f"x{number}"):
                guest.write(f"{front}/state", state)
    lines = world.mediator.log_path.read_text().splitlines()
    about = [line for line in lines if f'"domid": {FRONTEND}' in line or f'"peer": {FRONTEND}' in line]
    assert world.mediator.events("device_broken") and not world.mediator.events("device_removed")
    assert len(about) <= OF_A_DEVICE[0] + ROUNDS // 10
