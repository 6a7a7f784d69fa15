# SPDX-License-Identifier: GPL-2.0-or-later
"""Which disk a guest gets, and what dom0 says of it, whatever the guest writes and however long a backend takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domU_frontend.frontend import Frontend
from xen_shadowvq import apply, toolstack
from xen_shadowvq.domain import xenstore_socket
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.new_device import Disk
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes

from .command import Done, ask
from .conftest import Connect
from .disk_io import read_digest
from .world import BACKEND, DEADLINE_S, FRONTEND, OTHER, World

BYTES = 4096
SHORT_S = 0.3


def first_bytes(frontend: Frontend) -> str:
    """The beginning of the disk, as the guest reads it."""
    return read_digest(frontend, BYTES)


def start_of(image: Path) -> str:
    """The beginning of the image."""
    return hashlib.sha256(image.read_bytes()[:BYTES]).hexdigest()


@pytest.fixture
def guest(world: World) -> Iterator[XenStore]:
    """The guest's own connection to XenStore."""
    world.keep_alive(FRONTEND)
    with XenStore.connect(str(xenstore_socket(world.sim, FRONTEND))) as store:
        yield store


def ctl(world: World, verb: str, *arguments: object) -> Done:
    """`shadowvq ctl`."""
    return ask("ctl", verb, f"--sim={world.sim}", *map(str, arguments))


def front(device: int) -> str:
    """The guest's own directory of a device."""
    return nodes.virtio_front_path(frontend=FRONTEND, device=device)


@pytest.mark.parametrize("deed", ["deletes its directory", "writes nonsense"])
def test_a_number_is_free_only_when_nothing_is_left_of_its_device(
    deed: str, world: World, connect: Connect, guest: XenStore
) -> None:
    """While the backend does not answer, a guest deletes its half of a device, or names another backend there; dom0
    detaches it, and attaches another image: it gets another number, and its own bytes, and the old number is refused.
    When the backend has closed the old one, the number is free, and the guest reads the new image there."""
    a, b = world.image("a.img"), world.image("b.img")
    old = world.attach(a)
    frontend = connect(old)
    assert first_bytes(frontend) == start_of(a)
    world.backend.stop()
    if deed == "deletes its directory":
        guest.rm(front(old))
    else:
        guest.write(f"{front(old)}/backend-id", "nonsense")
    with pytest.raises(ConfigError):
        toolstack.detach(world.dom0, FRONTEND, old, SHORT_S)

    new = world.attach(b)
    assert new != old
    with pytest.raises(ConfigError, match=f"device {old}"):
        world.attach(b, device=old)
    world.backend.resume()
    second = connect(new, first_gfn=2048, pages=1024)
    assert first_bytes(second) == start_of(b)
    world.until(lambda: free(world, old), "end of the old device")
    c = world.image("c.img")
    assert world.attach(c, device=old) == old
    assert first_bytes(connect(old, first_gfn=3072, pages=1024)) == start_of(c)


def free(world: World, device: int) -> bool:
    """Whether nothing is left of a device of the guest's, as `ctl list` has it."""
    listed = json.loads(ctl(world, "list", "--json").out)
    return all(one["device"] != device for one in listed)


def test_a_number_waits_for_the_backends_half(world: World, connect: Connect) -> None:
    """The mediator has closed and forgotten a device, and its guest has its buffers back; the backend, which hangs, has
    not: the number is not given to another device before it has, and neither is the handle, to whatever guest."""
    frontend = connect(device := world.attach(world.image("a.img")))
    back = world.found(device).backend_path
    frontend.disconnect()
    world.backend.stop()
    with pytest.raises(ConfigError, match="did not let go"):
        toolstack.detach(world.dom0, FRONTEND, device, 2.0)
    with pytest.raises(ConfigError, match=f"an earlier device {device} of domain .* is still closing"):
        world.attach(world.image("b.img"), device=device)
    assert world.attach(world.image("c.img")) != device
    other = world.attach(world.image("d.img"), OTHER)
    assert world.found(other, OTHER).backend_path != back

    world.backend.resume()
    world.until(lambda: world.store.read(f"{back}/state") is None, "end of the backend's half")
    assert world.attach(world.image("b.img"), device=device) == device
    assert first_bytes(connect(device)) == start_of(world.directory / "b.img")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_disk_attached_while_another_goes(moment: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another guest is given a disk between the mediator's end of a device and dom0's own, when both halves on leg 2
    are gone: what dom0 then removes is not that disk's. Or just after it, with the same handle: `detach` does not take
    that disk for the one that it waits for."""
    device = world.attach(world.image("a.img"))
    back, others = world.found(device).backend_path, list[int]()
    take_back = toolstack._take_back

    def with_another(*arguments: Any) -> None:
        world.until(lambda: world.store.read(f"{back}/state") is None, "end of the backend's half")
        if moment == "after":
            take_back(*arguments)
        others.append(world.attach(world.image("b.img"), OTHER))
        if moment == "before":
            take_back(*arguments)

    monkeypatch.setattr(toolstack, "_take_back", with_another)
    toolstack.detach(world.dom0, FRONTEND, device, DEADLINE_S)
    (other,) = others
    assert (world.found(other, OTHER).backend_path == back) == (moment == "after")
    world.until(lambda: world.found(other, OTHER).state == "InitWait", "offer")


@pytest.mark.parametrize("nonsense", ["x", "99", "-1", "0", ""])
@pytest.mark.parametrize("node", ["backend-id", "backend", "state"])
def test_dom0_does_not_believe_the_guest(
    node: str, nonsense: str, world: World, connect: Connect, guest: XenStore
) -> None:
    """Whatever a guest writes to its own directory (XSA-175's kind), `list`, `status`, `resize` and `detach` are about
    the device that dom0 has attached."""
    image = world.image("a.img")
    device = world.attach(image)
    frontend = connect(device)
    if node != "state":
        guest.write(f"{front(device)}/{node}", nonsense)
        (listed,) = json.loads(ctl(world, "list", "--json").out)
        assert (listed["state"], listed["device"]) == ("Connected", device)
        status = json.loads(ctl(world, "status", FRONTEND, device, "--json").out)
        assert status["state"] == "connected"
        with image.open("ab") as file:
            file.truncate(8 << 20)
        assert json.loads(ctl(world, "resize", FRONTEND, device, "--json").out)["bytes"] == 8 << 20
    else:
        guest.write(f"{front(device)}/{node}", nonsense)
        assert ctl(world, "list", "--json").status == 0
    done = ctl(world, "detach", FRONTEND, device)
    assert (done.status, done.err) == (0, "")
    assert ctl(world, "list", "--json").out.strip() == "[]"
    assert frontend.has_all_back or node == "state"


LIAR = 5  # a mediator's domain, of one guest


@pytest.mark.parametrize(
    ("node", "lie"),
    [("backend-id", "x"), ("backend-id", str(OTHER)), ("held-pages", "x"), ("held-pages", "1"), ("svq-handle", "x"),
     ("svq-handle", "77"), ("online", "x"), ("version", "x")],
)  # fmt: skip
def test_dom0_does_not_believe_a_mediator(node: str, lie: str, world: World) -> None:
    """A mediator's domain writes nonsense, or another domain's id, where it may write: dom0 says of its device what it
    knows itself, lists those of all others, and attaches, detaches and applies for them."""
    world.add_domain(LIAR)
    image = str(world.image("a.img"))
    device = toolstack.attach(world.dom0, frontend=FRONTEND, mediator=LIAR, backend=BACKEND, disk=Disk(image))
    path = nodes.virtio_back_path(mediator=LIAR, frontend=FRONTEND, device=device)
    front_half = nodes.svq_front_path(mediator=LIAR, handle=0)
    with XenStore.connect(str(xenstore_socket(world.sim, LIAR))) as liar:
        liar.write(f"{front_half if node == 'backend-id' else path}/{node}", lie)
    innocent = world.attach(world.image("b.img"), OTHER)
    listed = ctl(world, "list", "--json")
    assert listed.status == 0, listed.err
    found = {one["frontend"]: one for one in json.loads(listed.out)}
    assert set(found) == {FRONTEND, OTHER}
    assert (found[FRONTEND]["backend"], found[FRONTEND]["held_by"]) in {(BACKEND, None), (BACKEND, BACKEND)}
    assert apply.look(world.dom0).domains[OTHER].devices[0].device == innocent
    world.detach(innocent, OTHER)
    toolstack.abandon(world.dom0, FRONTEND, device, SHORT_S)
    assert world.dom0.records(FRONTEND) == []
