# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue of watch events: coalesced, bounded, never silent about a change."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xen_shadowvq.errors import XenStoreGone
from xen_shadowvq.xenstore.watch_queue import WatchEvent, WatchQueue

CAPACITY = 4


@pytest.fixture
def queue() -> Iterator[WatchQueue]:
    """A small queue with two watches."""
    queue = WatchQueue(paths_per_token_max=CAPACITY)
    queue.expect("/a", "one")
    queue.expect("/b", "two")
    yield queue
    queue.close()


def readable(queue: WatchQueue) -> bool:
    """Whether the descriptor is."""
    return bool(select.select([queue], [], [], 0)[0])


def test_same_event_is_delivered_once(queue: WatchQueue) -> None:
    """An event that is still pending already says all that a second one would."""
    for _ in range(3):
        queue.put("/a/x", "one")
        queue.put("/a/y", "one")
    assert queue.get(0) == WatchEvent("/a/x", "one")
    queue.put("/a/x", "one")
    assert [queue.get(0), queue.get(0), queue.get(0)] == [
        WatchEvent("/a/y", "one"),
        WatchEvent("/a/x", "one"),
        None,
    ]


def test_flood_becomes_one_rescan_and_leaves_others_alone(queue: WatchQueue) -> None:
    """Too many paths of one token collapse; another token's event keeps its path."""
    queue.put("/b/x", "two")
    for i in range(1000):
        queue.put(f"/a/{i}", "one")
        assert len(queue) <= 1 + CAPACITY
    assert queue.get(0) == WatchEvent("/b/x", "two")
    assert queue.get(0) == WatchEvent("", "one", rescan=True)
    assert queue.get(0) is None


@pytest.mark.parametrize("path", ["/ab", "/", "", "/c", "@releaseDomain"])
def test_event_of_no_watch_is_dropped(queue: WatchQueue, path: str) -> None:
    """Only what lies at or below a registered watch with that token gets in."""
    queue.put(path, "one")
    queue.put("/a/x", "two")
    queue.put("/a/x", "three")
    assert queue.get(0) is None


def test_forgetting_takes_only_what_came_from_that_watch(queue: WatchQueue) -> None:
    """Pending events stay if another watch with the same token covers them."""
    queue.expect("/a/deeper", "one")
    queue.put("/a/x", "one")
    queue.put("/a/deeper/x", "one")
    assert queue.forget("/a", "one")
    assert queue.get(0) == WatchEvent("/a/deeper/x", "one")
    queue.rescan("one")
    assert queue.forget("/a/deeper", "one")
    assert queue.get(0) is None
    assert not queue.forget("/a/deeper", "one")


def test_root_and_special_and_relative_watches(queue: WatchQueue) -> None:
    """A watch on the root takes every path; special and relative names match as they are."""
    for watched, path in (("/", "/any/thing"), ("@releaseDomain", "@releaseDomain"), ("device", "device/x")):
        assert queue.expect(watched, watched)
        assert not queue.expect(watched, watched)
        queue.put(path, watched)
        assert queue.get(0) == WatchEvent(path, watched)


def test_failure_comes_after_the_events(queue: WatchQueue) -> None:
    """A lost connection is raised once everything before it is delivered, and until it is taken back."""
    queue.put("/a", "one")
    queue.fail("broken")
    assert queue.get(0) == WatchEvent("/a", "one")
    for _ in range(2):
        with pytest.raises(XenStoreGone, match="broken"):
            queue.get(10_000)
    queue.revive()
    assert queue.get(0) is None


def test_descriptor_follows_the_queue(queue: WatchQueue) -> None:
    """It is readable exactly while get() would not wait."""
    assert not readable(queue)
    queue.put("/a", "one")
    queue.put("/b", "two")
    assert readable(queue)
    queue.get(0)
    assert readable(queue)
    queue.forget("/b", "two")
    assert not readable(queue)
    queue.fail("broken")
    assert readable(queue)
    queue.revive()
    assert not readable(queue)


def test_waiting_thread_wakes(queue: WatchQueue) -> None:
    """get() returns as soon as there is something, from whatever thread."""
    got: list[WatchEvent | None] = []
    waiter = threading.Thread(target=lambda: got.append(queue.get(60_000)))
    waiter.start()
    queue.put("/a", "one")
    waiter.join()
    assert got == [WatchEvent("/a", "one")]


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.tuples(st.sampled_from("ab"), st.integers(0, 8)))))
def test_no_change_is_lost(steps: list[tuple[str, int] | None]) -> None:
    """In any order of puts and gets, each change is followed by an event for its path or a rescan of its token."""
    queue = WatchQueue(paths_per_token_max=CAPACITY)
    unseen: set[tuple[str, str]] = set()

    def take() -> WatchEvent | None:
        event = queue.get(0)
        if event is not None:
            unseen.difference_update({(p, t) for p, t in unseen if t == event.token and event.path in ("", p)})
        return event

    for token in "ab":
        queue.expect("/", token)
    for step in steps:
        if step is None:
            take()
        else:
            token, number = step
            queue.put(f"/{number}", token)
            unseen.add((f"/{number}", token))
        assert len(queue) <= 2 * CAPACITY
    while take() is not None:
        pass
    assert not unseen
    queue.close()
