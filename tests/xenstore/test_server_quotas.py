# SPDX-License-Identifier: GPL-2.0-or-later
"""What one domain may use of the embedded server, and that it costs nobody else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from . import xs_wire_client as xs
from .conftest import SMALL
from .xs_wire_client import Disconnected, Refused, Wire, refused


def fill(wire: Wire, tx_id: int = 0) -> int:
    """Make nodes until refused; returns how many."""
    for count in range(1000):
        try:
            wire.write(f"data/{count}", b"", tx_id)
        except Refused as error:
            assert error.name == "ENOSPC"
            return count
    raise AssertionError("no quota")


def test_node_quota(connect: Callable[[int], Wire]) -> None:
    """A domain owns a bounded number of nodes; removing makes room, others and domain 0 are not concerned."""
    guest = connect(1)
    made = fill(guest)
    assert 0 < made < SMALL.nodes_max
    guest.call(xs.RM, "data/0")
    guest.write("data/again", b"")
    with refused("ENOSPC"):
        guest.write("data/more", b"")
    with refused("ENOSPC"):
        guest.call(xs.MKDIR, "data/more")
    guest.write("data/again", b"existing nodes stay writable")
    assert fill(connect(2)) == made
    dom0 = connect(0)
    for i in range(2 * SMALL.nodes_max):
        dom0.write(f"/local/domain/1/control/{i}", b"")


def test_node_quota_counts_what_a_deep_path_makes(connect: Callable[[int], Wire]) -> None:
    """All the parents count, and a refused path leaves none of them."""
    guest = connect(1)
    with refused("ENOSPC"):
        guest.write("data/" + "/".join("x" * 30), b"")
    assert guest.call(xs.DIRECTORY, "data") == b""


def test_node_quota_holds_in_a_transaction(connect: Callable[[int], Wire]) -> None:
    """A transaction that makes too many nodes is refused as a whole."""
    guest = connect(1)
    for i in range(4):
        tx = guest.begin()
        for j in range(3):
            guest.write(f"data/{i}-{j}", b"", tx)
        try:
            guest.end(tx)
        except Refused as error:
            assert error.name == "ENOSPC"
            break
    else:
        raise AssertionError("no quota")
    assert f"{i}-0".encode() not in guest.call(xs.DIRECTORY, "data").split(b"\0")


def test_node_size(connect: Callable[[int], Wire]) -> None:
    """Value, permissions and names of children count for the size of a node; domain 0 is free."""
    guest = connect(1)
    guest.write("data/x", b"v" * 200)
    with refused("ENOSPC"):
        guest.write("data/x", b"v" * 250)
    with refused("ENOSPC"):
        guest.write("data/y", b"v" * 250)
    assert guest.read("data/x") == b"v" * 200
    with refused("ENOSPC"):
        guest.write("data/" + "n" * 240, b"")
    connect(0).write("/t/x", b"v" * 4000)


def test_transaction_fails_after_a_write_that_was_too_large(connect: Callable[[int], Wire]) -> None:
    """A transaction in which a write failed cannot be committed in part."""
    guest = connect(1)
    tx = guest.begin()
    guest.write("data/x", b"1", tx)
    with refused("ENOSPC"):
        guest.write("data/y", b"v" * 250, tx)
    with refused("ENOMEM"):
        guest.end(tx)
    with refused("ENOENT"):
        guest.read("data/x")


def test_watch_quota(connect: Callable[[int], Wire]) -> None:
    """Watches count for the domain, not for the connection, and come back when that closes."""
    first, second = connect(1), connect(1)
    for i in range(SMALL.watches_max):
        first.call(xs.WATCH, "data", str(i))
    second.call(xs.WATCH, "data", "one more fits, as in xenstored")
    with refused("E2BIG"):
        second.call(xs.WATCH, "data", "but not two")
    connect(2).call(xs.WATCH, "data", "other domain")
    first.close()
    connect(2).read("domid")  # the server has seen the end of `first` before it takes this connection
    second.call(xs.WATCH, "data", "there is room again")


def test_transaction_quota(connect: Callable[[int], Wire]) -> None:
    """Open transactions are bounded, and so are the nodes that one touches."""
    guest = connect(1)
    ids = [guest.begin() for _ in range(SMALL.transactions_max + 1)]
    with refused("ENOSPC"):
        guest.begin()
    guest.end(ids.pop(), "F")
    tx = guest.begin()
    with refused("ENOSPC"):
        for i in range(SMALL.transaction_nodes_max + 1):
            with contextlib.suppress(Refused) if i < 5 else contextlib.nullcontext():
                guest.call(xs.MKDIR, f"data/{i}", tx_id=tx)
    with refused("ENOMEM"):
        guest.end(tx)


def test_permission_quota(guest: Wire, frontend: int) -> None:
    """A node has at most five permission entries of an unprivileged domain's making."""
    guest.write("data/x", b"")
    guest.call(xs.SET_PERMS, "data/x", f"n{frontend}", *["r0"] * 4)
    with refused("ENOSPC"):
        guest.call(xs.SET_PERMS, "data/x", f"n{frontend}", *["r0"] * 5)


def test_connection_quota(connect: Callable[[int], Wire]) -> None:
    """Too many connections of one domain are closed at once; those that are there live on."""
    wires = [connect(1) for _ in range(SMALL.connections_max)]
    for wire in wires:
        wire.read("domid")
    surplus = connect(1)
    with pytest.raises((Disconnected, BrokenPipeError)):
        surplus.read("domid")
    wires[0].close()
    assert connect(2).read("domid") == b"2"
    assert wires[1].read("domid") == b"1"
