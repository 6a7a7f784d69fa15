# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands end in their time, whoever changes nodes while they ask."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from xen_shadowvq.domain import xenstore_socket
from xen_shadowvq.xenstore import Transaction, XenStore
from xenstore_schema import nodes

from .command import ctl
from .world import BACKEND, FRONTEND, MEDIATOR, World

TIMEOUT_S = 1.0
SLACK_S = 4.0  # for what a command does beside waiting, on a busy machine


@contextmanager
def interfering(world: World, domid: int, *paths: str) -> Iterator[None]:
    """A domain writes nodes of its own before each end of a transaction of ours: none that reads them succeeds."""
    ours, numbers = XenStore.transaction, itertools.count(1)

    with XenStore.connect(str(xenstore_socket(world.sim, domid))) as theirs, pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def transaction(self: XenStore) -> Iterator[Transaction]:
            with ours(self) as inner:
                yield inner
                for path in paths:
                    theirs.write(path, str(next(numbers)))

        patch.setattr(XenStore, "transaction", transaction)
        yield


@pytest.mark.parametrize(("verb", "request_"), [("trace", "trace-request"), ("status", "stats-request")])
def test_a_mediator_that_interferes_all_the_time(empty_world: World, verb: str, request_: str) -> None:
    """The command ends when its timeout is over, with one line that names the domain."""
    world = empty_world
    device = world.attach(world.image("disk.img"))
    path = nodes.virtio_back_path(mediator=MEDIATOR, frontend=FRONTEND, device=device)
    with interfering(world, MEDIATOR, f"{path}/{request_}"):
        began = time.monotonic()
        done = ctl(world, verb, str(FRONTEND), str(device), f"--timeout={TIMEOUT_S}")
        took_s = time.monotonic() - began
    assert took_s < TIMEOUT_S + SLACK_S
    assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
    assert f"domain {MEDIATOR} (dom{MEDIATOR})" in done.err


def test_a_backend_that_interferes_all_the_time(empty_world: World) -> None:
    """`status` goes without its counters, and `resize` ends when its timeout is over."""
    world = empty_world
    world.start_mediator()
    device = world.attach(world.image("disk.img"))
    back = nodes.svq_back_path(backend=BACKEND, mediator=MEDIATOR, handle=0)
    with interfering(world, BACKEND, f"{back}/stats-request", f"{back}/resize-request"):
        status = ctl(world, "status", str(FRONTEND), str(device))
        began = time.monotonic()
        resize = ctl(world, "resize", str(FRONTEND), str(device), f"--timeout={TIMEOUT_S}")
        took_s = time.monotonic() - began
    assert status.status == 0, status.err
    assert took_s < TIMEOUT_S + SLACK_S
    assert resize.status == 2 and f"domain {BACKEND} (dom{BACKEND})" in resize.err
