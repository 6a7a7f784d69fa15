# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded XenStore server's conformance tests, against the real xenstored: as dom0, and as guests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.xen.remote import Place, Remote
from tests.xen.topology import Topology
from tests.xenstore import test_conformance as conformance
from tests.xenstore import test_conformance_watches as conformance_watches
from tests.xenstore.test_conformance import *  # noqa: F403
from tests.xenstore.test_conformance_watches import *  # noqa: F403
from tests.xenstore.xs_wire_client import Wire

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]


class RemoteSocket:
    """As much of a socket as Wire uses; its other end is a Store in some domain."""

    def __init__(self, store: Remote) -> None:
        self._store = store
        self._number: int | None = store.call("open")
        self._unsent = self._received = b""

    def sendall(self, data: bytes) -> None:
        """Keeps the bytes until an answer is wanted."""
        self._unsent += data

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; none if the other end closed."""
        if not self._received:
            answer = self._store.call("exchange", number=self._number, data=self._unsent.hex())
            self._unsent, self._received = b"", bytes.fromhex(answer)
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def close(self) -> None:
        """Disconnects. Safe to call twice."""
        if self._number is not None:
            self._store.call("close", number=self._number)
            self._number = None


class RemoteWire(Wire):
    """One connection to the real xenstored, as some domain."""

    def __init__(self, store: Remote) -> None:
        self.sock = RemoteSocket(store)  # type: ignore[assignment]
        self._req_id = 0
        self._events = []


@pytest.fixture(scope="module")
def stores(together: Topology) -> dict[int, Remote]:
    """By domid: where connections come from."""
    places: list[Place] = [together.machine, *together.frontends]
    return {place.domid: Remote(place, "store") for place in places}


@pytest.fixture
def wire_for(stores: dict[int, Remote]) -> Iterator[Callable[[int], Wire]]:
    """Opens a bare connection as the given domain; closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda domid: stack.enter_context(RemoteWire(stores[domid]))


@pytest.fixture
def frontend(together: Topology) -> int:
    """An unprivileged domain that is there."""
    return together.frontends[0].domid


@pytest.fixture
def backend(together: Topology) -> int:
    """Another one."""
    return together.frontends[1].domid


@pytest.fixture
def dom0(wire_for: Callable[[int], Wire], stores: dict[int, Remote], frontend: int) -> Iterator[Wire]:
    """A bare connection as domain 0. What the tests make is taken away again."""
    yield wire_for(0)
    guests = f"/local/domain/{frontend}/data/*"  # the node itself is the guest's, made by xl
    stores[0].call("remove", paths=["/t", "/local/domain/0/t-relative", "/local/domain/0/data", guests])


def test_reset_ends_all_watches_and_transactions(dom0: Wire) -> None:  # type: ignore[no-redef]
    """As dom0, on a connection of its own: a guest's kernel has but one, and would lose its watches."""
    conformance_watches.test_reset_ends_all_watches_and_transactions(dom0)


def test_message_above_4096_bytes_ends_the_connection(  # type: ignore[no-redef]
    wire_for: Callable[[int], Wire],
) -> None:
    """The same test as dom0: a guest's kernel refuses to send such a message."""
    conformance.test_message_above_4096_bytes_ends_the_connection(wire_for(0), wire_for(0))


@pytest.fixture
def guest(wire_for: Callable[[int], Wire], frontend: int) -> Wire:
    """A bare connection as the frontend."""
    return wire_for(frontend)


@pytest.fixture
def other(wire_for: Callable[[int], Wire], backend: int) -> Wire:
    """A bare connection as the backend."""
    return wire_for(backend)
