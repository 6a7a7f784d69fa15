# SPDX-License-Identifier: GPL-2.0-or-later
"""The client against a sound server: values, watches, transactions, reconnecting."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xen_shadowvq.embedded.xs_server import XenStoreServer
from xen_shadowvq.errors import XenStoreError, XenStoreGone
from xen_shadowvq.xenstore import Transaction, WatchEvent, XenStore

from .xs_wire_client import Wire

StoreFor = Callable[[int], XenStore]


@pytest.fixture
def store(store_for: StoreFor) -> XenStore:
    """A client as domain 0."""
    return store_for(0)


def refused(number: int) -> pytest.RaisesExc[XenStoreError]:
    """Expects a XenStoreError with that errno."""
    return pytest.raises(XenStoreError, check=lambda error: error.errno == number)


def events(store: XenStore) -> list[WatchEvent]:
    """All events so far; a round trip makes sure that none is still on its way."""
    store.read("domid")
    found = []
    while event := store.next_event(0):
        found.append(event)
    return found


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1", "", "two words", "tab\tand\nline", "é", "x" * 4000])
def test_text_comes_back(store: XenStore, value: str) -> None:
    """Any text can be written and read, no text included."""
    store.write("/t/node", value)
    assert store.read("/t/node") == value


def test_bytes_of_a_peer_become_harmless_text(store: XenStore, dom0: Wire) -> None:
    """What is not UTF-8 is escaped instead of raising or of breaking whoever prints it."""
    dom0.write("/t/node", b"\xff\0\x80")
    value = store.read("/t/node")
    assert value == "\\xff\0\\x80"
    assert value.encode("utf-8")


def test_absent_is_no_error(store: XenStore) -> None:
    """Reading, listing and removing what is not there is None, empty, and fine."""
    assert store.read("/t/none") is None
    assert store.ls("/t/none") == []
    store.rm("/t/none/none")


def test_absent_below_what_others_own(store: XenStore, store_for: StoreFor, frontend: int) -> None:
    """A domain removes again what is gone from a directory that it may only read, though xenstored says EACCES; what is
    there, and not its own, is refused."""
    store.write("/t/theirs", "1")
    store.set_perms("/t", ["n0", f"r{frontend}"])
    guest = store_for(frontend)
    guest.rm("/t/gone")
    with pytest.raises(XenStoreError) as caught:
        guest.rm("/t/theirs")
    assert caught.value.errno == errno.EACCES


def test_nodes(store: XenStore) -> None:
    """mkdir, ls, rm and permissions do as they say."""
    store.mkdir("/t/a")
    store.write("/t/b/c", "1")
    assert sorted(store.ls("/t")) == ["a", "b"]
    assert store.ls("/t/a") == []
    store.set_perms("/t/a", ["n0", "r7"])
    assert store.get_perms("/t/a") == ["n0", "r7"]
    store.rm("/t/b")
    assert store.ls("/t") == ["a"]


def test_directory_of_any_size_is_listed(store: XenStore) -> None:
    """More names than fit in one message are fetched in parts."""
    names = {f"child-with-a-rather-long-name-{i}" for i in range(300)}
    for name in names:
        store.write(f"/t/{name}", "")
    assert set(store.ls("/t")) == names
    assert len(store.ls("/t")) == len(names)


@pytest.mark.parametrize("path", ["", "/t/", "/t//a", "/t a", "/t\n", "/t\0", "/é", "/" + "x" * 4000, "/t/../a"])
def test_bad_path_is_refused(store: XenStore, path: str) -> None:
    """A path that cannot name a node, such as one from a peer, is EINVAL whatever is done with it."""
    for attempt in (store.read, store.ls, store.rm, store.mkdir, store.get_perms):
        with refused(errno.EINVAL):
            attempt(path)
    with refused(errno.EINVAL):
        store.write(path, "")
    with refused(errno.EINVAL):
        store.watch(path, "token")


@pytest.mark.parametrize("perms", [[], ["x0"], ["r"], ["r0\0n0"], ["r0", ""]])
def test_bad_permissions_are_refused(store: XenStore, perms: list[str]) -> None:
    """Permissions that are none do not reach the server."""
    store.mkdir("/t")
    with refused(errno.EINVAL):
        store.set_perms("/t", perms)


def test_refusal_names_path_and_errno(store_for: StoreFor, frontend: int) -> None:
    """The server's errors come with errno and path."""
    store = store_for(frontend)
    with refused(errno.EACCES) as caught:
        store.write("name", "mine")
    assert caught.value.path == "name"
    with refused(errno.ENOENT):
        store.get_perms("data/none")
    with refused(errno.E2BIG):
        store.write("data/x", "x" * 5000)


def test_descriptor_above_1023_works(server: XenStoreServer) -> None:
    """A process with many descriptors open can still talk to XenStore."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limit[1]), limit[1]))
    taken: list[int] = []
    try:
        while not taken or taken[-1] < 1100:
            taken.append(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 0))
        with XenStore.connect(str(server.socket_path(0))) as store:
            assert store.read("domid") == "0"
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


# ---- transactions ----------------------------------------------------------------------------------------------------


def test_transaction_takes_effect_at_the_end(store: XenStore) -> None:
    """What is done within the block is seen outside after it, at once."""
    with store.transaction() as tx:
        tx.write("/t/a", "1")
        assert tx.read("/t/a") == "1"
        assert tx.ls("/t") == ["a"]
        assert store.read("/t/a") is None
    assert store.read("/t/a") == "1"
    with pytest.raises(RuntimeError):
        tx.write("/t/a", "2")


def test_exception_gives_the_transaction_up(store: XenStore) -> None:
    """An exception leaves the block, and nothing has happened; the server holds no open transaction for it."""
    for _ in range(30):
        with pytest.raises(KeyError), store.transaction() as tx:
            tx.write("/t/a", "1")
            raise KeyError
    assert store.read("/t/a") is None


def test_conflict_is_eagain(store: XenStore) -> None:
    """A change in between makes the end of the block raise."""
    store.write("/t/a", "0")
    with refused(errno.EAGAIN), store.transaction() as tx:
        value = tx.read("/t/a")
        store.write("/t/a", "5")
        tx.write("/t/a", f"{value}1")
    assert store.read("/t/a") == "5"


def test_in_transaction_tries_again(store_for: StoreFor, store: XenStore) -> None:
    """Increments from several threads are all counted; the result of the last run is returned."""
    store.write("/t/count", "0")

    def increment(tx: Transaction) -> int:
        value = int(tx.read("/t/count") or 0) + 1
        tx.write("/t/count", str(value))
        return value

    def work(own: XenStore) -> None:
        for _ in range(20):
            own.in_transaction(increment, attempts_max=1000)

    threads = [threading.Thread(target=work, args=(store_for(0),)) for _ in range(3)]
    threads.append(threading.Thread(target=work, args=(store,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.in_transaction(increment) == 81


def test_in_transaction_gives_up(store: XenStore) -> None:
    """A peer that interferes every time cannot keep us at it forever."""
    runs = []

    def contested(tx: Transaction) -> None:
        runs.append(tx.read("/t/a"))
        store.write("/t/a", "")

    store.mkdir("/t/a")
    with refused(errno.EAGAIN):
        store.in_transaction(contested, attempts_max=5)
    assert len(runs) == 5


def test_in_transaction_with_patience(store: XenStore) -> None:
    """A client with patience outlasts others who interfere often, and gives up in the end as well."""
    runs = []

    def contested(tx: Transaction) -> int:
        runs.append(tx.read("/t/a"))
        if len(runs) < 40:
            store.write("/t/a", "")
        return len(runs)

    store.mkdir("/t/a")
    assert store.in_transaction(contested, patience_s=60.0) == 40
    del runs[:]
    with refused(errno.EAGAIN):
        store.in_transaction(contested, patience_s=0.01)
    assert 16 <= len(runs) < 40


def test_in_transaction_passes_other_errors_on(store: XenStore) -> None:
    """Only EAGAIN is tried again."""
    runs = []

    def wrong(tx: Transaction) -> None:
        runs.append(1)
        tx.get_perms("/t/none")

    with refused(errno.ENOENT):
        store.in_transaction(wrong)
    assert runs == [1]


def test_requests_from_many_threads(store: XenStore) -> None:
    """Threads share a connection, in transactions and not, and each gets its own answers."""
    wrong: list[object] = []

    def work(name: str) -> None:
        for i in range(50):
            with store.transaction() as tx:
                tx.write(f"/t/{name}/x", str(i))
            if store.read(f"/t/{name}/x") != str(i):
                wrong.append((name, i))

    for name in "abcd":
        store.mkdir(f"/t/{name}/x")
    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- watches ---------------------------------------------------------------------------------------------------------


def test_watch_tells_of_changes(store: XenStore) -> None:
    """The first event comes at once, then one for each path that changed."""
    store.watch("/t", "token")
    assert events(store) == [WatchEvent("/t", "token")]
    store.write("/t/a", "1")
    store.write("/t/a", "2")
    store.write("/t/b", "1")
    assert set(events(store)) == {WatchEvent("/t/a", "token"), WatchEvent("/t/b", "token")}
    assert store.next_event(0) is None


def test_relative_and_special_watches(server: XenStoreServer, store: XenStore) -> None:
    """Relative watches give relative paths; domains coming and going are heard of."""
    store.watch("device", "device")
    store.watch("@releaseDomain", "gone")
    events(store)
    store.write("device/x", "")
    server.add_domain(30)
    server.remove_domain(30)
    assert set(events(store)) == {WatchEvent("device/x", "device"), WatchEvent("@releaseDomain", "gone")}


def test_one_token_for_several_paths(store: XenStore) -> None:
    """A token may stand for several paths; ending one watch leaves the others."""
    store.watch("/t/a", "token")
    store.watch("/t/b", "token")
    events(store)
    with refused(errno.EEXIST):
        store.watch("/t/a", "token")
    store.unwatch("/t/a", "token")
    store.write("/t/a", "")
    store.write("/t/b", "")
    assert events(store) == [WatchEvent("/t/b", "token")]
    with refused(errno.ENOENT):
        store.unwatch("/t/a", "token")


def test_no_event_after_unwatch(store: XenStore) -> None:
    """An event that is pending when its watch ends is not delivered, and disturbs nothing."""
    store.watch("/", "all")
    store.watch("/t", "token")
    store.write("/t/a", "")
    store.read("domid")
    store.unwatch("/t", "token")
    assert {event.token for event in events(store)} == {"all"}


def test_refused_watch_is_none(store: XenStore) -> None:
    """A watch that the server refused is not registered, and can be tried again."""
    with refused(errno.E2BIG):
        store.watch("/t", "x" * 4096)
    with refused(errno.EINVAL):
        store.watch("/t", "a\0b")
    with refused(errno.ENOENT):
        store.unwatch("/t", "x" * 4096)


def test_storm_is_bounded_and_not_lost(store: XenStore, dom0: Wire) -> None:
    """A peer that touches thousands of nodes leaves one rescan event; another token's event is not pushed out."""
    store.watch("/t/quiet", "quiet")
    store.watch("/t/loud", "loud")
    events(store)
    dom0.write("/t/quiet/x", b"")
    for i in range(3000):
        dom0.write(f"/t/loud/{i}", b"")
    dom0.write("/t/quiet/y", b"")
    assert {event for event in events(store) if event.token == "quiet"} == {  # noqa: S105
        WatchEvent("/t/quiet/x", "quiet"),
        WatchEvent("/t/quiet/y", "quiet"),
    }
    for i in range(3000):
        dom0.write(f"/t/loud/{i}", b"")
    loud = events(store)
    assert WatchEvent("", "loud", rescan=True) in loud
    assert len(loud) < 100


def test_descriptor_can_be_polled(store: XenStore, dom0: Wire) -> None:
    """A loop may wait for events together with its other descriptors."""
    store.watch("/t", "token")
    events(store)
    assert not select.select([store], [], [], 0)[0]
    dom0.write("/t/a", b"")
    assert select.select([store], [], [], 20)[0]
    assert events(store) == [WatchEvent("/t/a", "token")]
    assert not select.select([store], [], [], 0)[0]


# ---- losing the server -----------------------------------------------------------------------------------------------


@pytest.fixture
def restartable(directory: Path) -> Iterator[Callable[[], XenStoreServer]]:
    """Starts a server in place of the one before."""
    running: list[XenStoreServer] = []

    def restart() -> XenStoreServer:
        if running:
            running.pop().stop()
        running.append(XenStoreServer(directory))
        running[-1].start()
        return running[-1]

    yield restart
    running.pop().stop()


def test_lost_server_is_noticed_by_all(restartable: Callable[[], XenStoreServer]) -> None:
    """A waiting next_event(), later requests and the flags all tell; nothing hangs."""
    server = restartable()
    with XenStore.connect(str(server.socket_path(0))) as store:
        assert store.alive
        assert store.failure is None
        waiting: list[BaseException] = []

        def wait() -> None:
            try:
                store.next_event(60_000)
            except XenStoreGone as error:
                waiting.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        server.stop()
        thread.join()
        assert waiting
        assert not store.alive
        assert "lost" in str(store.failure)
        with pytest.raises(XenStoreGone):
            store.read("domid")
        with pytest.raises(XenStoreGone), store.transaction():
            raise AssertionError
        with pytest.raises(XenStoreGone):
            store.watch("/t", "token")


def test_reconnect_registers_watches_again(restartable: Callable[[], XenStoreServer]) -> None:
    """After reconnect() every token gets a rescan, and changes are heard of as before."""
    server = restartable()
    with XenStore.connect(str(server.socket_path(0))) as store:
        store.watch("/t/a", "one")
        store.watch("/t/b", "one")
        store.watch("device", "two")
        store.watch("/t/c", "ended")
        store.unwatch("/t/c", "ended")
        with Wire(server.socket_path(0)) as writer:
            writer.write("/t/a", b"")
        server = restartable()
        store.reconnect()
        assert store.alive
        found = events(store)
        assert {event.token for event in found if event.rescan} == {"one", "two"}
        store.write("/t/b/x", "")
        store.write("device/x", "")
        assert set(events(store)) == {WatchEvent("/t/b/x", "one"), WatchEvent("device/x", "two")}


def test_reconnect_can_fail_and_be_tried_again(restartable: Callable[[], XenStoreServer], directory: Path) -> None:
    """While there is no server reconnect() raises, and the watches are kept for a later attempt."""
    server = restartable()
    with XenStore.connect(str(server.socket_path(0))) as store:
        store.watch("/t", "token")
        server.stop()
        for _ in range(3):
            with pytest.raises(XenStoreGone):
                store.reconnect()
            assert not store.alive
            with pytest.raises(XenStoreGone):
                store.read("domid")
        with pytest.raises(XenStoreGone):
            while True:
                store.next_event(0)
        restartable()
        store.reconnect()
        assert WatchEvent("", "token", rescan=True) in events(store)


def test_reconnect_of_a_live_connection(store: XenStore) -> None:
    """reconnect() is fine while nothing is wrong."""
    store.watch("/t", "token")
    store.reconnect()
    assert WatchEvent("", "token", rescan=True) in events(store)


def test_transaction_does_not_outlive_its_connection(store: XenStore) -> None:
    """A transaction that was open when the connection was lost fails; it does not go on outside of one."""
    with pytest.raises(XenStoreGone), store.transaction() as tx:
        store.reconnect()
        tx.write("/t/a", "1")
    assert store.read("/t/a") is None


def test_nobody_listens(directory: Path) -> None:
    """Connecting to no server, or a dead one's socket, is XenStoreGone, and leaks no descriptor."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "dead"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("none", "dead", "x" * 200):
        with pytest.raises(XenStoreGone):
            XenStore.connect(str(directory / name))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_closing_leaves_nothing(server: XenStoreServer, dom0: Wire) -> None:
    """A closed client has neither a thread nor a descriptor left, and refuses everything."""
    dom0.read("domid")
    threads, fds = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        with XenStore.connect(str(server.socket_path(0))) as store:
            store.watch("/t", "token")
            store.reconnect()
    with pytest.raises(XenStoreGone):
        store.read("domid")
    dom0.read("domid")  # the server has closed its side by now
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == (threads, fds)
