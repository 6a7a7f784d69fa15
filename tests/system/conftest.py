# SPDX-License-Identifier: GPL-2.0-or-later
"""Worlds to test in: empty, or with both services and a first frontend."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from domU_frontend.frontend import Frontend

from .disk_io import IoLoop
from .observer import sentences
from .world import BACKEND, FRONTEND, MEDIATOR, OTHER, World

Connect = Callable[..., Frontend]
Loop = Callable[..., IoLoop]

PAUSE_S = 0.02  # of a neighbour, between two rounds


@pytest.fixture(autouse=True)
def observed() -> Iterator[None]:
    """What the observers of all worlds find while a test is taken down fails it as well. (While it runs: the hook.)"""
    yield
    fail_for_breaches()


def fail_for_breaches() -> None:
    """Fails the test that runs if an observer found anything."""
    found = [sentence for world in World.living for sentence in world.observer.take()]
    if found:
        pytest.fail(sentences(found))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """A test that came out right fails if an observer found something meanwhile."""
    yield
    fail_for_breaches()


@pytest.fixture
def empty_world() -> Iterator[World]:
    """A world of four domains in which nothing runs."""
    with World() as world:
        for domid in (MEDIATOR, BACKEND, FRONTEND, OTHER):
            world.add_domain(domid)
        yield world


@pytest.fixture
def world(empty_world: World) -> World:
    """A world in which mediator and backend serve."""
    empty_world.start_backend()
    empty_world.start_mediator()
    return empty_world


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    """The same for all tests of a module, each with devices of its own."""
    with World() as world:
        for domid in (MEDIATOR, BACKEND, FRONTEND, OTHER):
            world.add_domain(domid)
        world.start_backend()
        world.start_mediator()
        yield world


def connector(world: World, stack: ExitStack) -> Connect:
    """See the fixture `connect`."""

    def connect(device: int, domid: int = FRONTEND, **options: Any) -> Frontend:
        options = {"pages": 2048, "queue_size": 64, **options}
        frontend = stack.enter_context(Frontend(device, sim=(world.sim, domid), **options))
        frontend.connect()
        return frontend

    return connect


@pytest.fixture(scope="module")
def neighbour(shared_world: World) -> Iterator[IoLoop]:
    """Another frontend of the same mediator, whose I/O goes on all the time."""
    with ExitStack() as stack:
        device = shared_world.attach(shared_world.image("other.img"), OTHER)
        io = IoLoop(connector(shared_world, stack)(device, OTHER), pause_s=PAUSE_S)
        yield io
        io.stop()


@pytest.fixture
def connect(empty_world: World) -> Iterator[Connect]:
    """Connects a frontend in this process to its device; it is closed after the test."""
    with ExitStack() as stack:
        yield connector(empty_world, stack)
        for end in empty_world.unfinished:
            end()


@pytest.fixture
def loop(connect: Connect) -> Iterator[Loop]:
    """Starts an IoLoop, which is abandoned after the test, before its frontend is closed, if it runs still."""
    del connect
    loops: list[IoLoop] = []

    def start(frontend: Frontend, seed: int = 1, **options: Any) -> IoLoop:
        loops.append(IoLoop(frontend, seed, **options))
        return loops[-1]

    yield start
    for one in loops:
        one.abandon()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows XenStore and the logs with a test that failed, while its world may still be there."""
    report = yield
    if report.failed:
        arguments = getattr(item, "funcargs", {})
        for world in {id(w): w for w in arguments.values() if isinstance(w, World)}.values():
            report.sections.append(("the world", world.describe()))
    return report
