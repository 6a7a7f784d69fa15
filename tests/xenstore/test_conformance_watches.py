# SPDX-License-Identifier: GPL-2.0-or-later
"""What any XenStore of Xen 4.17 does with watches; knows nothing of the server's kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import xs_wire_client as xs
from .xs_wire_client import Wire, refused


def watched(wire: Wire, *paths: str) -> Wire:
    """Watch each path with itself as token, and take the first events."""
    for path in paths:
        assert wire.call(xs.WATCH, path, path) == b"OK\0"
    assert wire.events() == [(path, path) for path in paths]
    return wire


def test_watch_fires_once_at_the_start(dom0: Wire) -> None:
    """Whether or not there is such a node, the first event comes with the registration, after its answer."""
    dom0.send(xs.WATCH, b"/t/absent\0token\0")
    assert dom0.receive().type == xs.WATCH
    event = dom0.receive()
    assert (event.type, event.req_id, event.tx_id) == (xs.WATCH_EVENT, 0, 0)
    assert event.payload == b"/t/absent\0token\0"


def test_changes_at_and_below_fire(dom0: Wire) -> None:
    """Writing, making and permissions count, for the node and all below; the event names the node that changed."""
    watched(dom0, "/t/a")
    dom0.write("/t/a", b"1")
    dom0.write("/t/a/b/c", b"1")
    dom0.call(xs.SET_PERMS, "/t/a/b", "r0")
    dom0.call(xs.MKDIR, "/t/a/d")
    assert dom0.events() == [(path, "/t/a") for path in ("/t/a", "/t/a/b/c", "/t/a/b", "/t/a/d")]


def test_what_is_no_change_does_not_fire(dom0: Wire) -> None:
    """Neighbours with the same beginning, parents, reading, and MKDIR of what is there are silent."""
    dom0.write("/t/a/b", b"")
    watched(dom0, "/t/a")
    dom0.write("/t/ab", b"1")
    dom0.write("/t", b"1")
    dom0.read("/t/a")
    dom0.call(xs.MKDIR, "/t/a/b")
    dom0.call(xs.RM, "/t/a/absent")
    assert dom0.events() == []


def test_same_value_fires(dom0: Wire) -> None:
    """A write is an event even if it changes nothing."""
    dom0.write("/t/a", b"1")
    watched(dom0, "/t/a")
    dom0.write("/t/a", b"1")
    assert dom0.events() == [("/t/a", "/t/a")]


def test_rm_fires_for_what_was_below(dom0: Wire) -> None:
    """A watch on a removed descendant hears of its own path; one above hears of the removed root only."""
    dom0.write("/t/a/b/c", b"1")
    dom0.write("/t/a/b/d", b"1")
    watched(dom0, "/t", "/t/a/b/c", "/t/a/b/none")
    dom0.call(xs.RM, "/t/a")
    assert sorted(dom0.events()) == [("/t/a", "/t"), ("/t/a/b/c", "/t/a/b/c")]


def test_relative_watch_gives_relative_paths(dom0: Wire, guest: Wire, frontend: int) -> None:
    """The form of the registration is the form of the event."""
    watched(guest, "data")
    guest.call(xs.WATCH, f"/local/domain/{frontend}/data", "absolute")
    guest.events()
    dom0.write(f"/local/domain/{frontend}/data/x", b"1")
    assert sorted(guest.events()) == [(f"/local/domain/{frontend}/data/x", "absolute"), ("data/x", "data")]


def test_path_and_token_make_a_watch(dom0: Wire) -> None:
    """The same pair twice is EEXIST; another token is another watch; a watch that is not there is ENOENT."""
    watched(dom0, "/t/a")
    with refused("EEXIST"):
        dom0.call(xs.WATCH, "/t/a", "/t/a")
    dom0.call(xs.WATCH, "/t/a", "second")
    dom0.events()
    dom0.write("/t/a", b"")
    assert sorted(dom0.events()) == [("/t/a", "/t/a"), ("/t/a", "second")]
    for path, token in (("/t/a", "third"), ("/t", "second")):
        with refused("ENOENT"):
            dom0.call(xs.UNWATCH, path, token)
    dom0.call(xs.UNWATCH, "/t/a", "second")
    dom0.write("/t/a", b"")
    assert dom0.events() == [("/t/a", "/t/a")]


@pytest.mark.parametrize("path", ["", "/t/", "/t//a", "/t/a b", "/" + "x" * 2048])
def test_bad_path_of_a_watch_is_refused(dom0: Wire, path: str) -> None:
    """A watch needs a path that could name a node."""
    with refused("EINVAL"):
        dom0.call(xs.WATCH, path, "token")


def test_reset_ends_all_watches_and_transactions(guest: Wire) -> None:
    """RESET_WATCHES is for a kernel that starts over: nothing of the old one's is left."""
    watched(guest, "data", "control")
    tx = guest.begin()
    guest.raw(xs.RESET_WATCHES, b"\0")
    guest.write("data/x", b"")
    assert guest.events() == []
    with refused("ENOENT"):
        guest.end(tx)
    watched(guest, "data")


def test_unreadable_node_gives_no_event(dom0: Wire, guest: Wire) -> None:
    """A domain hears nothing of nodes that it may read neither themselves nor by their parent."""
    dom0.write("/t/closed/x", b"")
    dom0.call(xs.SET_PERMS, "/t/closed", "n0")
    dom0.call(xs.SET_PERMS, "/t/closed/x", "n0")
    watched(guest, "/t/closed", "/")
    dom0.write("/t/closed/x", b"secret")
    dom0.write("/t/closed/new", b"secret")
    dom0.call(xs.RM, "/t/closed/x")
    assert guest.events() == []


def test_readable_parent_tells_of_a_closed_child(dom0: Wire, guest: Wire, frontend: int) -> None:
    """Who may read the directory, and so list it, hears of its children."""
    dom0.write("/t/open/x", b"")
    dom0.call(xs.SET_PERMS, "/t/open", "n0", f"r{frontend}")
    dom0.call(xs.SET_PERMS, "/t/open/x", "n0")
    watched(guest, "/t/open")
    dom0.write("/t/open/x", b"")
    assert guest.events() == [("/t/open/x", "/t/open")]


def test_losing_permission_is_the_last_event(dom0: Wire, guest: Wire, frontend: int) -> None:
    """A watcher is told that it lost the permission to read, and nothing after that."""
    dom0.write("/t/node", b"")
    dom0.call(xs.SET_PERMS, "/t", "n0")
    dom0.call(xs.SET_PERMS, "/t/node", "n0", f"r{frontend}")
    watched(guest, "/t/node")
    dom0.call(xs.SET_PERMS, "/t/node", "n0")
    assert guest.events() == [("/t/node", "/t/node")]
    dom0.write("/t/node", b"secret")
    assert guest.events() == []


def test_events_of_a_transaction_come_at_commit(guest: Wire) -> None:
    """Nobody hears of a change before it is one; each changed node fires once."""
    watched(guest, "data")
    guest.write("data/old", b"")
    guest.events()
    tx = guest.begin()
    guest.write("data/a", b"1", tx)
    guest.write("data/a", b"2", tx)
    guest.call(xs.RM, "data/old", tx_id=tx)
    assert guest.events() == []
    guest.end(tx)
    assert sorted(guest.events()) == [("data/a", "data"), ("data/old", "data")]


def test_failed_transaction_has_no_events(dom0: Wire) -> None:
    """Neither an aborted nor a conflicting transaction is heard of, nor what one made and removed again."""
    dom0.write("/t/a", b"")
    watched(dom0, "/t")
    tx = dom0.begin()
    dom0.write("/t/a", b"1", tx)
    dom0.end(tx, "F")
    tx = dom0.begin()
    dom0.write("/t/made", b"1", tx)
    dom0.call(xs.RM, "/t/made", tx_id=tx)
    dom0.end(tx)
    assert dom0.events() == []
    tx = dom0.begin()
    dom0.write("/t/a", b"1", tx)
    dom0.write("/t/a", b"2")
    with refused("EAGAIN"):
        dom0.end(tx)
    assert dom0.events() == [("/t/a", "/t")]


@pytest.mark.parametrize("name", ["@introduceDomain", "@releaseDomain"])
def test_anybody_may_watch_domains_come_and_go(dom0: Wire, guest: Wire, name: str) -> None:
    """A guest may register for it as well, and gets the first event as with any watch."""
    watched(guest, name)
    watched(dom0, name)


def test_a_closed_connection_takes_its_watches_along(wire_for: Callable[[int], Wire], frontend: int) -> None:
    """Watches end with the connection, and can be made again on a new one."""
    with wire_for(frontend) as first:
        watched(first, "data")
    watched(wire_for(frontend), "data")
