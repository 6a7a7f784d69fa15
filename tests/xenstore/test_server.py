# SPDX-License-Identifier: GPL-2.0-or-later
"""What is particular to the embedded server: its Python API, sockets, quotas, and clients that behave badly."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xen_shadowvq.embedded.xs_limits import Limits
from xen_shadowvq.embedded.xs_server import XenStoreServer

from . import xs_wire_client as xs
from .xs_wire_client import Disconnected, Refused, Wire, refused, refused_as_malformed

# ---- the API ---------------------------------------------------------------------------------------------------------


def test_domain_is_made_as_xl_makes_it(server: XenStoreServer, dom0: Wire, guest: Wire, frontend: int) -> None:
    """The toolstack owns the directory, which the domain may read; `data` and a few more are the domain's own."""
    top = f"/local/domain/{frontend}"
    assert guest.read("name") == f"dom{frontend}".encode()
    assert guest.read("domid") == str(frontend).encode()
    for path in (top, f"{top}/device", f"{top}/control", f"{top}/name"):
        assert dom0.call(xs.GET_PERMS, path) == f"n0\0r{frontend}\0".encode()
    for path in (f"{top}/data", f"{top}/control/shutdown", f"{top}/device/suspend/event-channel"):
        assert dom0.call(xs.GET_PERMS, path) == f"n{frontend}\0".encode()
    assert dom0.read("/local/domain/0/name") == b"Domain-0"


def test_coming_and_going_is_announced(server: XenStoreServer, dom0: Wire) -> None:
    """@introduceDomain and @releaseDomain fire, and the domain's directory and socket go with it."""
    for name in ("@introduceDomain", "@releaseDomain"):
        dom0.call(xs.WATCH, name, "token")
    dom0.events()
    path = server.add_domain(30, name="guest")
    assert server.has_domain(30)
    assert dom0.events() == [("@introduceDomain", "token")]
    with Wire(path) as wire:
        assert wire.read("name") == b"guest"
        server.remove_domain(30)
        with pytest.raises(Disconnected):
            wire.receive()
    assert not path.exists()
    assert not server.has_domain(30)
    assert dom0.events() == [("@releaseDomain", "token")]
    with refused("ENOENT"):
        dom0.read("/local/domain/30")


def test_special_watch_can_be_opened_to_a_domain(
    dom0: Wire, guest: Wire, server: XenStoreServer, frontend: int
) -> None:
    """Domain 0 lets a domain hear of others by the permissions of the special path, until that domain is gone."""
    dom0.call(xs.SET_PERMS, "@releaseDomain", "n0", f"r{frontend}")
    guest.call(xs.WATCH, "@releaseDomain", "token")
    guest.events()
    server.add_domain(30)
    server.remove_domain(30)
    assert guest.events() == [("@releaseDomain", "token")]
    server.remove_domain(frontend)
    with Wire(server.add_domain(frontend)) as successor:
        successor.call(xs.WATCH, "@releaseDomain", "token")
        successor.events()
        server.add_domain(30)
        server.remove_domain(30)
        assert successor.events() == []


def test_what_a_domain_owned_goes_with_it(server: XenStoreServer, dom0: Wire, guest: Wire, frontend: int) -> None:
    """Nodes of a removed domain vanish wherever they are, with all below; watchers hear of it, other nodes stay."""
    dom0.write("/t/shared", b"")
    dom0.call(xs.SET_PERMS, "/t/shared", "n0", f"b{frontend}")
    guest.write("/t/shared/mine", b"")
    dom0.write("/t/shared/mine/below", b"")
    dom0.call(xs.WATCH, "/t", "token")
    dom0.events()
    server.remove_domain(frontend)
    assert ("/t/shared/mine", "token") in dom0.events()
    assert dom0.call(xs.DIRECTORY, "/t/shared") == b""


def test_successor_inherits_nothing(server: XenStoreServer, dom0: Wire, frontend: int) -> None:
    """A new domain with the id of an old one gets none of the permissions that were given to that one."""
    dom0.write("/t/node", b"secret")
    dom0.call(xs.SET_PERMS, "/t/node", "n0", f"b{frontend}")
    server.remove_domain(frontend)
    with Wire(server.add_domain(frontend)) as successor:
        with refused("EACCES"):
            successor.read("/t/node")
        dom0.write("/t/node", b"touched")
        dom0.write("/t/node/below", b"")
        for path in ("/t/node", "/t/node/below"):
            with refused("EACCES"):
                successor.read(path)
        dom0.call(xs.SET_PERMS, "/t/node", "n0", f"r{frontend}")
        assert successor.read("/t/node") == b"touched"


def test_transaction_cannot_revive_a_removed_owner(server: XenStoreServer, dom0: Wire, frontend: int) -> None:
    """Giving a node to a domain that is removed before the commit fails: its successor would own the node."""
    dom0.write("/t/node", b"")
    tx = dom0.begin()
    dom0.call(xs.SET_PERMS, "/t/node", f"n{frontend}", tx_id=tx)
    server.remove_domain(frontend)
    with refused("ENOMEM"):
        dom0.end(tx)


def test_target_lends_its_rights(server: XenStoreServer, dom0: Wire, guest: Wire, other: Wire, backend: int) -> None:
    """A device model's domain may do what the domain may that it serves, until that one is gone."""
    guest.write("data/x", b"1")
    path = "/local/domain/7/data/x"
    with refused("EACCES"):
        other.read(path)
    dom0.call(xs.SET_TARGET, str(backend), "7")
    assert other.read(path) == b"1"
    with refused("ENOENT"):
        dom0.call(xs.SET_TARGET, "31000", "7")
    server.remove_domain(7)
    server.add_domain(7)
    with Wire(server.socket_path(7)) as successor:
        successor.write("data/x", b"2")
    with refused("EACCES"):
        other.read(path)


def test_privileged_domain_may_do_as_dom0(server: XenStoreServer) -> None:
    """A privileged domain is bound by no permission, and may act as toolstack."""
    with Wire(server.add_domain(40, privileged=True)) as wire:
        wire.write("/t/anything", b"1")
        assert wire.call(xs.GET_PERMS, "/t/anything") == b"n0\0"
        assert wire.call(xs.IS_DOMAIN_INTRODUCED, "40") == b"T\0"


def test_toolstack_requests(server: XenStoreServer, dom0: Wire) -> None:
    """INTRODUCE opens a socket without making nodes, RELEASE closes it; both refuse what makes no sense."""
    dom0.call(xs.INTRODUCE, "50", "1", "1")
    with Wire(server.socket_path(50)) as wire:
        with refused("EACCES"):
            wire.read("name")
        dom0.call(xs.INTRODUCE, "50", "1", "1")
        assert wire.call(xs.GET_DOMAIN_PATH, "50")
    dom0.call(xs.RELEASE, "50")
    assert not server.socket_path(50).exists()
    for kind, arguments, error in (
        (xs.RELEASE, ("50",), "ENOENT"),
        (xs.RELEASE, ("0",), "EINVAL"),
        (xs.INTRODUCE, ("50", "1", "0"), "EINVAL"),
        (xs.INTRODUCE, ("50", "1"), "EINVAL"),
        (xs.INTRODUCE, ("40000", "1", "1"), "EINVAL"),
        (xs.RESUME, ("7",), "ENOSYS"),
    ):
        with refused(error):
            dom0.call(kind, *arguments)


def test_introducing_again_starts_afresh(dom0: Wire, guest: Wire, frontend: int) -> None:
    """INTRODUCE of a domain that is there takes its watches and transactions away."""
    guest.call(xs.WATCH, "data", "token")
    guest.events()
    tx = guest.begin()
    dom0.call(xs.INTRODUCE, str(frontend), "1", "1")
    guest.write("data/x", b"")
    assert guest.events() == []
    with refused("ENOENT"):
        guest.end(tx)


def test_privileged_domain_can_release_itself(server: XenStoreServer) -> None:
    """A request that closes the very connection that it came on harms nobody else."""
    with Wire(server.add_domain(40, privileged=True)) as wire:
        wire.send(xs.RELEASE, b"40\0")
        with pytest.raises(Disconnected):
            while True:
                wire.receive()
    assert not server.has_domain(40)


def test_wrong_calls_are_refused(server: XenStoreServer, frontend: int) -> None:
    """Ids out of range, in use, or unknown are the caller's mistake."""
    for domid in (-1, 0x7FF0, frontend, 0):
        with pytest.raises(ValueError, match=str(domid)):
            server.add_domain(domid)
    for domid in (0, 31):
        with pytest.raises(ValueError, match=str(domid)):
            server.remove_domain(domid)


def test_server_ends_cleanly(directory: Path) -> None:
    """stop() disconnects clients, removes the sockets, may be called twice; afterwards calls are refused."""
    server = XenStoreServer(directory)
    with pytest.raises(RuntimeError):
        server.add_domain(1)
    server.start()
    with Wire(server.socket_path(0)) as wire:
        wire.read("domid")
        server.stop()
        with pytest.raises(Disconnected):
            wire.receive()
    server.stop()
    assert list(directory.iterdir()) == []
    with pytest.raises(RuntimeError):
        server.add_domain(1)


def test_sockets_are_private(server: XenStoreServer) -> None:
    """Whoever can open a socket is that domain, so only the owner can."""
    assert stat.S_IMODE(server.socket_path(0).stat().st_mode) == 0o600


def test_socket_of_a_dead_server_is_replaced_but_not_of_a_live_one(directory: Path) -> None:
    """A crash leaves sockets behind, which must not keep a new server from starting; a running server does."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "xenstore-dom0.sock"))
    with XenStoreServer(directory) as server:
        second = XenStoreServer(directory)
        with pytest.raises(OSError, match="another server"):
            second.start()
        with Wire(server.socket_path(0)) as wire:
            assert wire.read("domid") == b"0"


def test_too_long_a_directory_is_said(directory: Path) -> None:
    """The kernel's limit for socket names is reported as such."""
    with pytest.raises(ValueError, match="107 bytes"):
        XenStoreServer(directory / ("x" * 100)).start()


# ---- clients that behave badly ---------------------------------------------------------------------------------------


def test_half_a_message_blocks_nobody(server: XenStoreServer, guest: Wire, other: Wire) -> None:
    """A client may take its time with a message; others are served, and it is once it is done."""
    message = xs.HEADER.pack(xs.READ, 5, 0, 6) + b"domid\0"
    for i in range(len(message)):
        guest.sock.sendall(message[i : i + 1])
        assert other.read("domid") == b"9"
    assert guest.receive().payload == b"7"


def test_client_that_does_not_read_answers_is_not_listened_to(server: XenStoreServer, guest: Wire, other: Wire) -> None:
    """The server stops reading requests instead of collecting answers, and goes on when the client has read."""
    count = 3000
    guest.write("data/big", b"v" * 1900)
    request = xs.HEADER.pack(xs.READ, 1, 0, 9) + b"data/big\0"
    sender = threading.Thread(target=guest.sock.sendall, args=(request * count,))
    sender.start()
    while not any(connection.paused for connection in list(server._connections)):
        assert other.read("domid") == b"9"
    for _ in range(100):
        assert other.read("domid") == b"9"
    unsent_bytes_max = Limits().unsent_pause_bytes + 16 + 4096  # and the answer with which it passed the bound
    assert all(connection.unsent_bytes <= unsent_bytes_max for connection in list(server._connections))
    for _ in range(count):
        assert guest.receive().payload == b"v" * 1900
    sender.join()


def test_client_that_does_not_read_events_is_dropped(small: XenStoreServer, connect: Callable[[int], Wire]) -> None:
    """Unread events are bounded; the connection ends rather than lose one silently."""
    deaf, writer = connect(0), connect(0)
    deaf.call(xs.WATCH, "/t", "token" * 100)
    for i in range(2000):
        writer.write(f"/t/{i % 300}-{'x' * 100}", b"")
    with pytest.raises(Disconnected):
        while True:
            deaf.receive()
    assert writer.read("domid") == b"0"


def test_identical_unread_events_are_kept_once(small: XenStoreServer, connect: Callable[[int], Wire]) -> None:
    """One node written again and again costs a deaf watcher's queue one entry, so it is not dropped for it."""
    slow, writer = connect(0), connect(0)
    slow.call(xs.WATCH, "/t", "token" * 100)
    for _ in range(3000):
        writer.write("/t/x", b"")
    events = slow.events()
    assert ("/t/x", "token" * 100) in events
    assert len(events) < 3000


def test_disconnecting_with_requests_under_way_is_fine(server: XenStoreServer, other: Wire, frontend: int) -> None:
    """A client may vanish at any point, leaving transactions and watches, which then end."""
    for _ in range(20):
        with Wire(server.socket_path(frontend)) as wire:
            wire.begin()
            wire.call(xs.WATCH, "data", "token")
            for _ in range(20):
                wire.send(xs.READ, b"data\0")
    assert other.read("domid") == b"9"
    with Wire(server.socket_path(frontend)) as wire:
        assert wire.begin()


def test_no_descriptor_left(server: XenStoreServer, other: Wire) -> None:
    """While the process has no descriptor for a new connection the others are served; the new one is, later."""
    other.read("domid")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as late:
        late.settimeout(20)
        # One number past the highest in use, and every free one below it taken.
        fillers = [os.dup(late.fileno()) for _ in range(20)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, limit[1]))
            late.connect(str(server.socket_path(0)))
            late.sendall(xs.HEADER.pack(xs.READ, 1, 0, 6) + b"domid\0")
            for _ in range(100):
                assert other.read("domid") == b"9"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            for fd in fillers:
                os.close(fd)
        assert late.recv(100).endswith(b"0")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(
        st.tuples(
            st.integers(0, 24),
            st.integers(0, 3),
            st.one_of(
                st.binary(max_size=64),
                st.lists(st.sampled_from([b"data", b"/", b"data/x", b"T", b"F", b"0", b"n7", b"@x", b"", b"99"])).map(
                    lambda parts: b"".join(part + b"\0" for part in parts)
                ),
            ),
        ),
        max_size=20,
    ),
    tail=st.binary(max_size=40),
)
def test_no_bytes_harm_the_server(
    server: XenStoreServer, other: Wire, frontend: int, messages: list[tuple[int, int, bytes]], tail: bytes
) -> None:
    """Whatever a guest sends is answered or ends its connection; another domain does not notice."""
    with Wire(server.socket_path(frontend)) as wire, contextlib.suppress(Disconnected, BrokenPipeError):
        for kind, tx_id, payload in messages:
            with contextlib.suppress(Refused):
                wire.raw(kind, payload, tx_id)
        wire.sock.sendall(tail)
    assert other.read("domid") == b"9"


def test_calls_from_many_threads(server: XenStoreServer) -> None:
    """The API may be used from any thread."""

    def work(base: int) -> None:
        for domid in range(base, base + 10):
            with Wire(server.add_domain(domid)) as wire:
                assert wire.read("domid") == str(domid).encode()
            server.remove_domain(domid)

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(server.has_domain(100 * i) for i in range(1, 5))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (xs.READ, b""),
        (xs.READ, b"/"),
        (xs.READ, b"/\0/\0"),
        (xs.DIRECTORY, b"/\0x"),
        (xs.MKDIR, b"/t"),
        (xs.RM, b"/t\0/t\0"),
    ],
)
def test_wrong_number_of_strings_for_a_node_is_refused(dom0: Wire, kind: int, payload: bytes) -> None:
    """Arguments are NUL-terminated, and there are as many as the request takes. Not with the conformance tests: Xen
    4.17's xenstored answers these with whatever error came last, ENOENT or ENOMEM as it happens; with none it hangs."""
    refused_as_malformed(dom0, kind, payload)


def test_permissions_of_special_names_are_for_the_privileged(dom0: Wire, guest: Wire) -> None:
    """A guest has no say about who hears of domains, and nobody about a name that means nothing. Not with the
    conformance tests: Debian's xenstored of Xen 4.17.7 dies of both requests."""
    for name in ("@introduceDomain", "@releaseDomain"):
        with refused("EACCES"):
            guest.call(xs.SET_PERMS, name, "r0")
    with refused("EINVAL"):
        dom0.call(xs.SET_PERMS, "@other", "r0")
