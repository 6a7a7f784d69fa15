# SPDX-License-Identifier: GPL-2.0-or-later
"""The client against a xenstored that is silent, dies, or answers nonsense: an error each time, never a hang."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from xen_shadowvq.errors import XenStoreError, XenStoreGone, XenStoreTimeout
from xen_shadowvq.xenstore import XenStore
from xen_shadowvq.xenstore.watch_queue import WatchEvent

from . import xs_wire_client as xs
from .scripted_store import Script, ScriptedStore, answer, event, message
from .xs_wire_client import Answer

SHORT_MS, LONG_MS = 30, 20_000

Connect = Callable[..., tuple[ScriptedStore, XenStore]]


def be_patient(store: XenStore) -> None:
    """From now on answers may take long, so that a busy machine is not taken for a silent server."""
    store._client.router.timeout_s = LONG_MS / 1000


@pytest.fixture
def connect(directory: Path) -> Iterator[Connect]:
    """Starts a scripted server and connects to it."""
    with ExitStack() as stack:

        def start(script: Script, timeout_ms: int = LONG_MS) -> tuple[ScriptedStore, XenStore]:
            server = stack.enter_context(ScriptedStore(directory / "socket", script))
            return server, stack.enter_context(XenStore.connect(str(server.path), timeout_ms=timeout_ms))

        yield start


def test_server_that_dies_mid_call(connect: Connect) -> None:
    """Every thread that waits for an answer gets XenStoreGone, and so does every later call."""
    together = threading.Barrier(5)
    server, store = connect(lambda _: b"")
    errors: list[type[BaseException]] = []

    def call() -> None:
        together.wait()
        try:
            store.read("/t")
        except (XenStoreGone, XenStoreTimeout) as error:
            errors.append(type(error))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    together.wait()
    for _ in range(4):
        server.requests.get()
    server.script = lambda _: None
    with pytest.raises(XenStoreGone):
        store.write("/t", "")
    for thread in threads:
        thread.join()
    assert errors == [XenStoreGone] * 4
    with pytest.raises(XenStoreGone):
        store.next_event(LONG_MS)


def test_silence_is_a_timeout_and_the_late_answer_is_ignored(connect: Connect) -> None:
    """A call has a time limit; its answer, if it comes at last, is not taken for that of another call."""
    server, store = connect(lambda _: b"", timeout_ms=SHORT_MS)
    with pytest.raises(XenStoreTimeout, match="/t/slow"):
        store.read("/t/slow")
    late = server.requests.get()
    be_patient(store)
    server.script = lambda request: answer(late, b"late") + answer(request, b"now")
    assert store.read("/t/other") == "now"
    assert store.alive


def test_answer_nobody_asked_for_is_ignored(connect: Connect) -> None:
    """Unknown request ids and unknown message types do no harm."""
    _, store = connect(
        lambda request: message(xs.READ, b"stray", 12345) + message(99, b"what", 54321) + answer(request, b"value")
    )
    assert store.read("/t") == "value"
    assert store.read("/t") == "value"


def test_event_with_more_fields_is_taken(connect: Connect) -> None:
    """Path and token are the first two strings; what a newer xenstored adds is left alone."""
    _, store = connect(
        lambda request: (
            answer(request)
            + message(xs.WATCH_EVENT, b"/t/a\0token\0extra\0")
            + message(xs.WATCH_EVENT, b"no string at all")
            + message(xs.WATCH_EVENT, b"")
            + event("/t/b", "unknown")
        )
    )
    store.watch("/t", "token")
    assert store.next_event(LONG_MS) == WatchEvent("/t/a", "token")
    store.watch("/u", "token")
    assert store.next_event(LONG_MS) == WatchEvent("/t/a", "token")


def test_first_event_may_come_before_the_answer(connect: Connect) -> None:
    """An event that overtakes the answer to WATCH is delivered like any other."""
    _, store = connect(lambda request: event("/t", "token") + answer(request))
    store.watch("/t", "token")
    assert store.next_event(0) == WatchEvent("/t", "token")


@pytest.mark.parametrize(
    ("nonsense", "timeout_ms"),
    [
        (lambda request: xs.HEADER.pack(request.type, request.req_id, request.tx_id, 4097), LONG_MS),
        (lambda request: message(xs.DIRECTORY, b"x", request.req_id), LONG_MS),
        (lambda request: message(request.type, b"x", request.req_id, tx_id=5), LONG_MS),
        (lambda request: xs.HEADER.pack(request.type, request.req_id, request.tx_id, 100) + b"half", SHORT_MS),
        (lambda request: b"\0" * 7, SHORT_MS),
        (lambda request: None, LONG_MS),
    ],
    ids=["too long", "other type", "other transaction", "half a payload", "half a header", "end"],
)
def test_nonsense_ends_the_connection(connect: Connect, nonsense: Script, timeout_ms: int) -> None:
    """After an answer that makes no sense the connection is given up."""
    _, store = connect(nonsense, timeout_ms=timeout_ms)
    with pytest.raises((XenStoreGone, XenStoreTimeout)):
        store.read("/t")
    with pytest.raises(XenStoreGone):
        store.next_event(LONG_MS)
    assert not store.alive
    with pytest.raises(XenStoreGone):
        store.read("/t")


@pytest.mark.parametrize(("name", "number"), [(b"EACCES", errno.EACCES), (b"EWHAT", errno.EIO), (b"", errno.EIO)])
def test_errors_by_name(connect: Connect, name: bytes, number: int) -> None:
    """Errors come as names; one that is unknown is EIO."""
    _, store = connect(lambda request: message(xs.ERROR, name + b"\0", request.req_id, request.tx_id))
    with pytest.raises(XenStoreError) as caught:
        store.write("/t", "")
    assert caught.value.errno == number


def test_acknowledgement_has_to_be_one(connect: Connect) -> None:
    """An answer to WRITE that is not OK is not taken for success."""
    _, store = connect(lambda request: answer(request, b"NO\0"))
    with pytest.raises(XenStoreGone):
        store.write("/t", "")


def test_transaction_id_has_to_be_one(connect: Connect) -> None:
    """An answer to TRANSACTION_START that is no number is not taken for a transaction."""
    _, store = connect(lambda request: answer(request, b"abc\0"))
    with pytest.raises(XenStoreGone), store.transaction():
        raise AssertionError


def test_transaction_that_starts_too_late_is_ended(connect: Connect) -> None:
    """If TRANSACTION_START times out, its late answer does not leave a transaction open forever."""
    server, store = connect(lambda _: b"", timeout_ms=SHORT_MS)
    with pytest.raises(XenStoreTimeout), store.transaction():
        raise AssertionError
    late = server.requests.get()
    be_patient(store)
    server.script = lambda request: b"" if request.type == xs.TRANSACTION_END else answer(request, b"value")
    server.send(message(late.type, b"77\0", late.req_id))
    end = server.requests.get(timeout=20)
    assert (end.type, end.tx_id, end.payload) == (xs.TRANSACTION_END, 77, b"F\0")
    assert store.read("/t") == "value"


def test_watch_left_by_a_timeout_is_taken_over(connect: Connect) -> None:
    """If WATCH was carried out but its answer came too late, watching again works and asks for a rescan."""
    server, store = connect(lambda _: b"", timeout_ms=SHORT_MS)
    with pytest.raises(XenStoreTimeout):
        store.watch("/t", "token")
    be_patient(store)
    server.script = lambda request: message(xs.ERROR, b"EEXIST\0", request.req_id)
    store.watch("/t", "token")
    assert store.next_event(0) == WatchEvent("", "token", rescan=True)
    server.send(event("/t/x", "token"))
    assert store.next_event(LONG_MS) == WatchEvent("/t/x", "token")


def test_server_that_does_not_read(directory: Path) -> None:
    """Sending has a time limit as well: a full socket is a lost connection, not a hang."""
    blocked = threading.Event()

    def script(request: Answer) -> bytes:
        blocked.wait()
        return b""

    with ScriptedStore(directory / "socket", script) as server:
        with XenStore.connect(str(server.path), timeout_ms=10) as store:
            with pytest.raises(XenStoreGone, match="cannot send"):
                while True:
                    with pytest.raises(XenStoreTimeout):
                        store.write("/t", "x" * 4000)
            assert not store.alive
        blocked.set()


def test_storm_without_end_is_bounded(connect: Connect) -> None:
    """Events faster than anyone takes them cost a bounded queue, and calls are still answered."""
    _, store = connect(
        lambda request: answer(request) + b"".join(event(f"/t/{request.req_id}-{i}", "token") for i in range(2000))
    )
    store.watch("/t", "token")
    for _ in range(10):
        store.mkdir("/t")
    store.mkdir("/t")
    taken = 0
    seen_rescan = False
    while (found := store.next_event(0)) is not None:
        taken += 1
        seen_rescan |= found.rescan
    assert seen_rescan
    assert taken < 200


def test_request_ids_stay_within_32_bits(connect: Connect) -> None:
    """Ids wrap around and pass over those that are in use."""
    server, store = connect(lambda request: answer(request, b"value"))
    client = store._client
    client.router._next_rq_id = 0xFFFFFFFF
    assert store.read("/t") == "value"
    assert store.read("/t") == "value"
    assert [server.requests.get().req_id for _ in range(2)] == [0xFFFFFFFF, 0]


def test_directory_that_changes_while_it_is_listed(connect: Connect) -> None:
    """A listing in parts begins again when the directory changed, and gives up if it always does."""
    generations = iter(range(10_000))
    parts = {b"0": b"a\0", b"2": b"b\0\0"}

    def script(request: Answer) -> bytes:
        if request.type == xs.DIRECTORY:
            return message(xs.ERROR, b"E2BIG\0", request.req_id)
        generation = min(next(generations), stable_from)
        return answer(request, b"%d\0" % generation + parts[request.payload.split(b"\0")[1]])

    stable_from = 3
    _, store = connect(script)
    assert store.ls("/t") == ["a", "b"]
    stable_from = 10_000
    with pytest.raises(XenStoreError) as caught:
        store.ls("/t")
    assert caught.value.errno == errno.EAGAIN
