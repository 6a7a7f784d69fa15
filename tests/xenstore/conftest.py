# SPDX-License-Identifier: GPL-2.0-or-later
"""An embedded XenStore server with a frontend's and a backend's domain, and connections to it as any domain."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xen_shadowvq.embedded.xs_limits import Limits
from xen_shadowvq.embedded.xs_server import XenStoreServer
from xen_shadowvq.xenstore import XenStore

from .xs_wire_client import Wire

FRONTEND, BACKEND = 7, 9

SMALL = Limits(
    nodes_max=20,
    node_bytes_max=256,
    watches_max=3,
    transactions_max=2,
    transaction_nodes_max=10,
    connections_max=3,
    unsent_pause_bytes=4096,
    unsent_bytes_max=32 * 1024,
    unsent_privileged_bytes_max=64 * 1024,
)

StoreFor = Callable[[int], XenStore]
WireFor = Callable[[int], Wire]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, since the name of a socket may have 107 bytes only."""
    path = Path(tempfile.mkdtemp(prefix="xs"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(directory: Path) -> Iterator[XenStoreServer]:
    """A server that knows domains 0, FRONTEND and BACKEND."""
    with XenStoreServer(directory) as server:
        server.add_domain(FRONTEND)
        server.add_domain(BACKEND)
        yield server


@pytest.fixture
def frontend() -> int:
    """An unprivileged domain that is there."""
    return FRONTEND


@pytest.fixture
def backend() -> int:
    """Another unprivileged domain that is there."""
    return BACKEND


@pytest.fixture
def store_for(server: XenStoreServer) -> Iterator[StoreFor]:
    """Opens a client connection as the given domain; closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda domid: stack.enter_context(XenStore.connect(str(server.socket_path(domid)), timeout_ms=20_000))


@pytest.fixture
def wire_for(server: XenStoreServer) -> Iterator[WireFor]:
    """Opens a bare connection as the given domain; closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda domid: stack.enter_context(Wire(server.socket_path(domid)))


@pytest.fixture
def dom0(wire_for: WireFor) -> Wire:
    """A bare connection as domain 0."""
    return wire_for(0)


@pytest.fixture
def guest(wire_for: WireFor) -> Wire:
    """A bare connection as the frontend."""
    return wire_for(FRONTEND)


@pytest.fixture
def other(wire_for: WireFor) -> Wire:
    """A bare connection as the backend."""
    return wire_for(BACKEND)


@pytest.fixture
def small(directory: Path) -> Iterator[XenStoreServer]:
    """A server with low quotas and domains 1 and 2."""
    with XenStoreServer(directory, SMALL) as server:
        server.add_domain(1)
        server.add_domain(2)
        yield server


@pytest.fixture
def connect(small: XenStoreServer) -> Iterator[Callable[[int], Wire]]:
    """Opens a connection to `small`; closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda domid: stack.enter_context(Wire(small.socket_path(domid)))
