# SPDX-License-Identifier: GPL-2.0-or-later
"""What any XenStore of Xen 4.17 does with requests, permissions, transactions; knows nothing of the server's kind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from . import xs_wire_client as xs
from .xs_wire_client import Disconnected, Wire, refused, refused_as_malformed


def children(wire: Wire, path: str, tx_id: int = 0) -> set[str]:
    """Names in a directory."""
    return set(wire.call(xs.DIRECTORY, path, tx_id=tx_id).decode().split("\0")[:-1])


def share(dom0: Wire, path: str, *perms: str) -> None:
    """Make a node with permissions."""
    dom0.write(path, b"")
    dom0.call(xs.SET_PERMS, path, *perms)


# ---- nodes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"1", b"", b"\0", b"a\0b\0", bytes(range(256)), b"x" * 4000])
def test_value_comes_back_byte_for_byte(dom0: Wire, value: bytes) -> None:
    """Any bytes can be stored, none at all included."""
    dom0.write("/t/node", value)
    assert dom0.read("/t/node") == value


def test_write_makes_missing_parents_empty(dom0: Wire) -> None:
    """Parents come into being with no value, each listed in its own parent."""
    dom0.write("/t/a/b/c", b"1")
    assert dom0.read("/t/a/b") == b""
    assert children(dom0, "/t/a") == {"b"}
    assert children(dom0, "/t/a/b") == {"c"}


def test_write_keeps_children(dom0: Wire) -> None:
    """A node has a value and children, independently."""
    dom0.write("/t/a/b", b"1")
    dom0.write("/t/a", b"2")
    assert children(dom0, "/t/a") == {"b"}
    assert dom0.read("/t/a") == b"2"


def test_mkdir_leaves_what_is_there(dom0: Wire) -> None:
    """MKDIR makes a node with its parents, and changes nothing when it is there."""
    dom0.call(xs.MKDIR, "/t/a/b")
    assert dom0.read("/t/a/b") == b""
    dom0.write("/t/a/b", b"kept")
    assert dom0.call(xs.MKDIR, "/t/a/b") == b"OK\0"
    assert dom0.read("/t/a/b") == b"kept"


def test_rm_removes_everything_below(dom0: Wire) -> None:
    """RM takes the whole subtree and the parent's entry for it, and nothing else."""
    dom0.write("/t/a/b/c", b"1")
    dom0.write("/t/a/bb", b"2")
    dom0.call(xs.RM, "/t/a/b")
    assert children(dom0, "/t/a") == {"bb"}
    for path in ("/t/a/b", "/t/a/b/c"):
        with refused("ENOENT"):
            dom0.read(path)


def test_rm_of_nothing_needs_a_parent(dom0: Wire) -> None:
    """Removing what is not there is fine where it could have been."""
    dom0.write("/t/a", b"")
    assert dom0.call(xs.RM, "/t/a/none") == b"OK\0"
    with refused("ENOENT"):
        dom0.call(xs.RM, "/t/none/none")


def test_root_stays(dom0: Wire) -> None:
    """The root cannot be removed."""
    with refused("EINVAL"):
        dom0.call(xs.RM, "/")


@pytest.mark.parametrize(
    "path", ["", "//", "/t/", "/t//a", "/t/a b", "/t/a.b", "/t/\x7f", "/t/a\n", "@x", "t/", "/" + "x" * 2048, "/t/é"]
)
def test_bad_path_is_refused(dom0: Wire, path: str) -> None:
    """Paths have a small alphabet, no empty component, no slash at the end, and a length limit."""
    for kind in (xs.READ, xs.DIRECTORY, xs.MKDIR, xs.RM, xs.GET_PERMS):
        with refused("EINVAL"):
            dom0.call(kind, path)


def test_relative_path_is_below_own_domain(dom0: Wire, guest: Wire, frontend: int) -> None:
    """A path without a leading slash starts at /local/domain/<domid> of whoever asks."""
    guest.write("data/x", b"1")
    assert dom0.read(f"/local/domain/{frontend}/data/x") == b"1"
    dom0.write("t-relative", b"2")
    assert dom0.read("/local/domain/0/t-relative") == b"2"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (xs.WRITE, b"/t/a"),
        (xs.WRITE, b""),
        (xs.SET_PERMS, b"/\0"),
        (xs.SET_PERMS, b""),
        (xs.WATCH, b"/t\0"),
        (xs.WATCH, b"/t\0token"),
        (xs.UNWATCH, b"/t\0"),
        (xs.WATCH, b"/t\0token\0more\0"),
        (xs.DIRECTORY_PART, b"/\0"),
        (xs.TRANSACTION_END, b"T"),
    ],
)
def test_wrong_number_of_strings_is_refused(dom0: Wire, kind: int, payload: bytes) -> None:
    """Arguments are NUL-terminated, and there are as many as the request takes."""
    refused_as_malformed(dom0, kind, payload)


@pytest.mark.parametrize("kind", [xs.WATCH_EVENT, xs.ERROR, 20, 23, 128, 0xFFFF, 0xFFFFFFFF])
def test_unknown_request_is_refused(guest: Wire, kind: int) -> None:
    """A type that no client may send is answered, and costs nothing."""
    with refused("ENOSYS"):
        guest.raw(kind, b"\0")
    assert guest.read("domid")


def test_message_above_4096_bytes_ends_the_connection(guest: Wire, other: Wire) -> None:
    """After an impossible length the stream is out of step; only that client suffers."""
    guest.sock.sendall(xs.HEADER.pack(xs.READ, 1, 0, 4097))
    with pytest.raises(Disconnected):
        guest.receive()
    assert other.read("domid")


def test_large_directory_comes_in_parts(dom0: Wire) -> None:
    """DIRECTORY refuses what does not fit in a message; DIRECTORY_PART gives whole names and an empty one last."""
    names = {f"child-with-a-rather-long-name-{i}" for i in range(300)}
    for name in names:
        dom0.send(xs.WRITE, f"/t/{name}\0".encode())
    assert {dom0.answer().type for _ in names} == {xs.WRITE}
    with refused("E2BIG"):
        dom0.call(xs.DIRECTORY, "/t")
    listing, generations = b"", set()
    while not listing.endswith(b"\0\0"):
        generation, _, part = dom0.call(xs.DIRECTORY_PART, "/t", str(len(listing))).partition(b"\0")
        generations.add(generation)
        listing += part
    assert set(listing[:-2].decode().split("\0")) == names
    assert len(generations) == 1
    assert dom0.call(xs.DIRECTORY_PART, "/t", "100000").endswith(b"\0\0")


# ---- permissions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("letter", "allowed"), [("n", ""), ("r", "r"), ("w", "w"), ("b", "rw")])
@pytest.mark.parametrize("perms", ["{}0", "b0 {}{}"], ids=["default", "entry"])
def test_letters(dom0: Wire, guest: Wire, letter: str, allowed: str, perms: str) -> None:
    """The four letters mean none, read, write and both, as the first entry's default and as an entry for the domain."""
    domid = guest.read("domid").decode()
    share(dom0, "/t/node", *(perm.format(letter, domid) for perm in perms.split()))
    with contextlib.nullcontext() if "r" in allowed else refused("EACCES"):
        guest.read("/t/node")
    with contextlib.nullcontext() if "w" in allowed else refused("EACCES"):
        guest.write("/t/node", b"1")


def test_owner_and_dom0_may_do_anything(dom0: Wire, guest: Wire, other: Wire, frontend: int) -> None:
    """The first entry's letter does not bind the owner, and nothing binds domain 0."""
    share(dom0, "/t/node", f"n{frontend}")
    guest.write("/t/node", b"1")
    assert guest.read("/t/node") == dom0.read("/t/node") == b"1"
    with refused("EACCES"):
        other.read("/t/node")


def test_parents_need_not_be_readable(dom0: Wire, guest: Wire, frontend: int) -> None:
    """Permission is the node's own affair: access to a node inside of a closed directory works."""
    share(dom0, "/t/closed", "n0")
    share(dom0, "/t/closed/open", "n0", f"r{frontend}")
    assert guest.read("/t/closed/open") == b""


def test_absence_is_told_only_to_who_may_know(dom0: Wire, guest: Wire, frontend: int) -> None:
    """A domain that may not read the nearest existing parent gets EACCES whether the node is there or not."""
    share(dom0, "/t/closed", "n0")
    dom0.write("/t/closed/there", b"")
    for name in ("there", "absent", "absent/deeper"):
        with refused("EACCES"):
            guest.read(f"/t/closed/{name}")
    share(dom0, "/t/open", "n0", f"r{frontend}")
    with refused("ENOENT"):
        guest.read("/t/open/absent/deeper")


def test_new_node_inherits_and_belongs_to_its_maker(dom0: Wire, guest: Wire, frontend: int, backend: int) -> None:
    """Permissions are the parent's, but an unprivileged domain owns what it makes; domain 0 does not take over."""
    share(dom0, "/t/dir", "n0", f"b{frontend}", f"r{backend}")
    guest.write("/t/dir/mine", b"")
    assert guest.call(xs.GET_PERMS, "/t/dir/mine") == f"n{frontend}\0b{frontend}\0r{backend}\0".encode()
    dom0.write("/t/dir/mine/below", b"")
    assert dom0.call(xs.GET_PERMS, "/t/dir/mine/below") == f"n{frontend}\0b{frontend}\0r{backend}\0".encode()


def test_making_a_node_needs_write_on_the_nearest_parent(dom0: Wire, guest: Wire, frontend: int) -> None:
    """A readable directory is not one to write in."""
    share(dom0, "/t/dir", "n0", f"r{frontend}")
    for kind in (xs.MKDIR, xs.RM):
        with refused("EACCES"):
            guest.call(kind, "/t/dir/new")
    with refused("EACCES"):
        guest.write("/t/dir/new/deeper", b"1")


def test_own_directory_is_read_only_at_the_top(guest: Wire) -> None:
    """A guest reads its own directory, writes in `data`, and makes no devices for itself."""
    assert guest.read("name")
    for path in ("name", "new", "device/new", "control/new"):
        with refused("EACCES"):
            guest.write(path, b"x")
    guest.write("data/new", b"x")


def test_only_the_owner_sets_permissions(dom0: Wire, guest: Wire, frontend: int, backend: int) -> None:
    """Write permission is not enough; an owner may not give the node away, domain 0 may."""
    share(dom0, "/t/node", "n0", f"b{frontend}")
    with refused("EACCES"):
        guest.call(xs.SET_PERMS, "/t/node", f"b{frontend}")
    dom0.call(xs.SET_PERMS, "/t/node", f"n{frontend}")
    guest.call(xs.SET_PERMS, "/t/node", f"r{frontend}", f"b{backend}")
    assert guest.call(xs.GET_PERMS, "/t/node") == f"r{frontend}\0b{backend}\0".encode()
    with refused("EPERM"):
        guest.call(xs.SET_PERMS, "/t/node", f"n{backend}")
    dom0.call(xs.SET_PERMS, "/t/node", f"n{backend}")


@pytest.mark.parametrize("perm", ["", "x0", "r", "r-", "rr0", "0", "r0 "])
def test_bad_permission_is_refused(dom0: Wire, perm: str) -> None:
    """A permission is one letter and a domain id."""
    dom0.write("/t/node", b"")
    with refused("EINVAL"):
        dom0.call(xs.SET_PERMS, "/t/node", perm)


def test_owner_has_to_be_there(dom0: Wire) -> None:
    """A node cannot be given to a domain that does not exist."""
    dom0.write("/t/node", b"")
    with refused("ENOENT"):
        dom0.call(xs.SET_PERMS, "/t/node", "n31000")


def test_guest_may_not_act_as_toolstack(guest: Wire, backend: int) -> None:
    """Introducing, releasing, resuming, retargeting and asking for other domains is for privileged ones."""
    for kind, arguments in (
        (xs.INTRODUCE, ("12", "1", "1")),
        (xs.RELEASE, (str(backend),)),
        (xs.SET_TARGET, (str(backend), "0")),
        (xs.IS_DOMAIN_INTRODUCED, (str(backend),)),
    ):
        with refused("EACCES"):
            guest.call(kind, *arguments)


def test_domains_are_known(dom0: Wire, guest: Wire, frontend: int) -> None:
    """Anyone may ask for a domain's path; domain 0 may ask who is there."""
    assert guest.call(xs.GET_DOMAIN_PATH, "5") == b"/local/domain/5\0"
    assert dom0.call(xs.IS_DOMAIN_INTRODUCED, str(frontend)) == b"T\0"
    assert dom0.call(xs.IS_DOMAIN_INTRODUCED, "31000") == b"F\0"


# ---- transactions ----------------------------------------------------------------------------------------------------


def test_transaction_is_private_until_commit(dom0: Wire) -> None:
    """Its own changes are visible in it at once, to others only after the commit."""
    dom0.write("/t/a", b"old")
    tx = dom0.begin()
    dom0.write("/t/a", b"new", tx)
    dom0.write("/t/b/c", b"made", tx)
    assert dom0.read("/t/a", tx) == b"new"
    assert children(dom0, "/t", tx) == {"a", "b"}
    assert dom0.read("/t/a") == b"old"
    assert children(dom0, "/t") == {"a"}
    dom0.end(tx)
    assert dom0.read("/t/a") == b"new"
    assert dom0.read("/t/b/c") == b"made"


def test_aborted_transaction_leaves_nothing(dom0: Wire) -> None:
    """`F` throws away writes, new nodes and removals alike."""
    dom0.write("/t/a/b", b"1")
    tx = dom0.begin()
    dom0.write("/t/a/b", b"2", tx)
    dom0.write("/t/new", b"", tx)
    dom0.call(xs.RM, "/t/a", tx_id=tx)
    with refused("ENOENT"):
        dom0.read("/t/a/b", tx)
    dom0.end(tx, "F")
    assert dom0.read("/t/a/b") == b"1"
    assert children(dom0, "/t") == {"a"}


def test_read_in_a_transaction_is_repeatable(dom0: Wire) -> None:
    """What was read once stays, whatever others do; the commit then fails."""
    dom0.write("/t/a", b"1")
    tx = dom0.begin()
    assert dom0.read("/t/a", tx) == b"1"
    dom0.write("/t/a", b"2")
    assert dom0.read("/t/a", tx) == b"1"
    with refused("EAGAIN"):
        dom0.end(tx)


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda dom0: dom0.write("/t/a", b"2"),
        lambda dom0: dom0.write("/t/a", b"1"),
        lambda dom0: dom0.call(xs.RM, "/t/a"),
        lambda dom0: dom0.call(xs.SET_PERMS, "/t/a", "r0"),
        lambda dom0: dom0.write("/t/a/child", b""),
    ],
    ids=["other value", "same value", "removed", "permissions", "child"],
)
@pytest.mark.parametrize("first", ["read", "write"])
def test_conflict_is_eagain(dom0: Wire, first: str, meanwhile: Callable[[Wire], object]) -> None:
    """Any change to a node that the transaction read or wrote makes the commit fail, with nothing changed by it."""
    dom0.write("/t/a", b"1")
    tx = dom0.begin()
    if first == "read":
        dom0.read("/t/a", tx)
    else:
        dom0.write("/t/a", b"mine", tx)
    dom0.write("/t/b", b"", tx)
    meanwhile(dom0)
    with refused("EAGAIN"):
        dom0.end(tx)
    assert "b" not in children(dom0, "/t")
    with refused("ENOENT"):
        dom0.end(tx)


def test_absence_is_a_read_too(dom0: Wire) -> None:
    """A node that the transaction found absent, and that someone makes, is a conflict."""
    dom0.write("/t", b"")
    tx = dom0.begin()
    with refused("ENOENT"):
        dom0.read("/t/a", tx)
    dom0.write("/t/a", b"")
    with refused("EAGAIN"):
        dom0.end(tx)


def test_unrelated_change_is_no_conflict(dom0: Wire) -> None:
    """Transactions over different nodes all succeed."""
    for name in ("a", "b", "c"):
        dom0.write(f"/t/{name}", b"")
    one, two = dom0.begin(), dom0.begin()
    dom0.write("/t/a", b"1", one)
    dom0.write("/t/b", b"2", two)
    dom0.write("/t/c", b"3")
    dom0.end(two)
    dom0.end(one)
    assert [dom0.read(f"/t/{name}") for name in ("a", "b", "c")] == [b"1", b"2", b"3"]


def test_permissions_hold_in_a_transaction(dom0: Wire, guest: Wire) -> None:
    """A transaction is no way around permissions."""
    share(dom0, "/t/closed", "n0")
    tx = guest.begin()
    with refused("EACCES"):
        guest.read("/t/closed", tx)
    with refused("EACCES"):
        guest.write("/t/closed/x", b"", tx)
    guest.write("data/x", b"1", tx)
    guest.end(tx)
    assert guest.read("data/x") == b"1"


def test_transaction_ids_belong_to_a_connection(dom0: Wire, other: Wire, guest: Wire) -> None:
    """One that was not started here, or has ended, is ENOENT; starting one inside of another is EBUSY."""
    tx = guest.begin()
    for wire, tx_id in ((other, tx), (guest, tx + 1), (dom0, 0xFFFFFFFF)):
        with refused("ENOENT"):
            wire.read("domid", tx_id)
    with refused("EBUSY"):
        guest.raw(xs.TRANSACTION_START, b"\0", tx)
    with refused("EINVAL"):
        guest.call(xs.TRANSACTION_END, "maybe", tx_id=tx)
    guest.end(tx)
    with refused("ENOENT"):
        guest.read("domid", tx)
    with refused("ENOENT"):
        dom0.call(xs.TRANSACTION_END, "T")


def test_made_and_removed_in_one_transaction_is_nothing(dom0: Wire) -> None:
    """What a transaction makes and removes again never shows."""
    dom0.write("/t", b"")
    tx = dom0.begin()
    dom0.write("/t/a/b", b"", tx)
    dom0.call(xs.RM, "/t/a", tx_id=tx)
    dom0.end(tx)
    assert children(dom0, "/t") == set()
