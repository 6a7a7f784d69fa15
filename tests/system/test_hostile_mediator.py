# SPDX-License-Identifier: GPL-2.0-or-later
"""
What a mediator's domain that has gone bad can do to others: nothing. In topology `separate` it mediates for one guest,
and may write whatever it likes in its own directories.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event

import pytest

from xen_shadowvq import toolstack
from xen_shadowvq.domain import xenstore_socket
from xen_shadowvq.embedded.machine import DomainSpec
from xen_shadowvq.errors import XenStoreError
from xen_shadowvq.new_device import Disk
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes

from .command import ctl
from .conftest import Connect, Loop
from .disk_io import goes_on
from .world import BACKEND, DEADLINE_S, FRONTEND, MEDIATOR, OTHER, World

BAD = 5  # the domain that has gone bad: the other guest's mediator


@pytest.fixture
def bad(world: World) -> Iterator[XenStore]:
    """Its connection to XenStore; it has privilege over the other guest alone."""
    world.machine.create_domain(DomainSpec(BAD, "bad", 16, privilege=OTHER))
    world.keep_alive(BAD)
    with XenStore.connect(str(xenstore_socket(world.sim, BAD))) as store:
        yield store


def attach(world: World) -> int:
    """A disk for the other guest, through that domain."""
    disk = Disk(str(world.image("bad.img")))
    return toolstack.attach(world.dom0, frontend=OTHER, mediator=BAD, backend=BACKEND, disk=disk)


def pair(world: World, device: int) -> tuple[int, str]:
    """The handle of its pair on leg 2, and the backend's half."""
    record = world.dom0.record(OTHER, device)
    assert record is not None and record.handle is not None
    return record.handle, nodes.svq_back_path(backend=BACKEND, mediator=BAD, handle=record.handle)


def half(handle: int) -> str:
    """Its half of a pair on leg 2."""
    return nodes.svq_front_path(mediator=BAD, handle=handle)


def test_a_backend_serves_the_guest_that_dom0_named(world: World, bad: XenStore, connect: Connect, loop: Loop) -> None:
    """A mediator that names another guest as the owner of the pages, before its own guest connects, changes nothing:
    the backend serves that device from its own guest's pages, as dom0 said, where no mediator can write."""
    world.start_another_mediator(BAD)
    device = attach(world)
    handle, back = pair(world, device)
    toolstack.wait_offered(world.dom0, OTHER, device, DEADLINE_S)
    bad.write(f"{half(handle)}/window-owner", str(FRONTEND))
    with pytest.raises(XenStoreError, match="Permission denied"):
        bad.write(nodes.SvqBack.WINDOW_OWNER.path(back), str(FRONTEND))
    goes_on(world, loop(connect(device, OTHER)))


def test_nobody_believes_what_the_toolstack_wrote_in_a_peers_directory() -> None:
    """What dom0 writes in a domain's own directory that domain can change, so its peer must not need it: in the
    mediator's directory on leg 2, which the backend reads, dom0 writes nothing but who the backend is."""
    told = {node.name for node in nodes.SVQ_FRONT.nodes if node.writer == "toolstack"}
    assert told == {"backend", "backend-id"}


def test_a_mediator_gets_no_more_queues_than_were_offered(world: World, bad: XenStore) -> None:
    """A mediator that connects with more queues than the disk was attached with is told what it may have."""
    device = attach(world)
    handle, back = pair(world, device)
    world.until(lambda: world.store.read(f"{back}/state") == "2", "offer of the backend")
    texts = {"features-accepted": "4294967296", "num-queues": "3", "window-first": "8", "window-count": "8"}
    for n in range(3):
        texts |= {f"queue-{n}/size": "8", f"queue-{n}/ring-refs": "8 9 10", f"queue-{n}/event-channel": "1"}
    for name, text in {**texts, "state": "3"}.items():
        bad.write(f"{half(handle)}/{name}", text)
    world.until(lambda: "at most the 1 that are offered" in (world.store.read(f"{back}/error") or ""), "refusal")


def _make_again(bad: XenStore, path: str, over: Event) -> None:
    while not over.is_set():
        with suppress(XenStoreError):
            bad.write(f"{path}/state", "4")


@pytest.mark.parametrize("deed", ["removes its half on leg 1", "makes its half on leg 2 again and again"])
def test_a_detached_disk_is_let_go_of(deed: str, world: World, bad: XenStore) -> None:
    """Whatever a mediator removes, keeps or makes again on its legs, once `detach` has succeeded the backend has let go
    of the image: another guest can have it."""
    device = attach(world)
    handle, back = pair(world, device)
    world.until(lambda: world.store.read(f"{back}/state") == "2", "offer of the backend")
    bad.rm(nodes.virtio_back_path(mediator=BAD, frontend=OTHER, device=device))
    over = Event()
    with ThreadPoolExecutor(1) as pool:
        if deed.startswith("makes"):
            pool.submit(_make_again, bad, half(handle), over)
        try:
            done = ctl(world, "detach", str(OTHER), str(device), f"--timeout={DEADLINE_S:g}")
        finally:
            over.set()
    assert (done.status, done.err) == (0, "")
    assert world.store.read(f"{back}/state") is None
    image = str(world.directory / "bad.img")
    other = toolstack.attach(world.dom0, frontend=FRONTEND, mediator=MEDIATOR, backend=BACKEND, disk=Disk(image))
    toolstack.wait_offered(world.dom0, FRONTEND, other, DEADLINE_S)


def _claims_the_innocent(bad: XenStore, device: int) -> None:
    path = nodes.virtio_back_path(mediator=BAD, frontend=OTHER, device=device)
    for name, text in (("svq-handle", "0"), ("state", "5"), ("held-pages", "9"), ("error", "lies")):
        bad.write(f"{path}/{name}", text)
    bad.write(f"{half(0)}/backend-id", "0")


@pytest.mark.parametrize("which", ["a device that another mediator has", "a device that nobody has attached"])
def test_a_mediator_claims_what_it_has_not(which: str, world: World, bad: XenStore) -> None:
    """A mediator that makes directories as if it had a device, or kept pages of one by an innocent domain, is not in
    `list`; and nobody is told to destroy that domain."""
    mine, its = world.attach(world.image("a.img"), OTHER), attach(world)
    _claims_the_innocent(bad, mine if which.startswith("a device that another") else 7)
    listed = json.loads(ctl(world, "list", "--json").out)
    assert {(one["mediator"], one["device"], one["held_by"]) for one in listed} == {
        (MEDIATOR, mine, None), (BAD, its, None),
    }  # fmt: skip
    assert "destroy" not in ctl(world, "list").out


def test_a_mediator_blames_an_innocent_domain_for_a_dead_guest(world: World, bad: XenStore) -> None:
    """Once a guest is dead there is no record of its devices; a mediator's word that dom0 keeps pages of it is worth
    nothing, as no pair of that mediator is in dom0's own directory."""
    attach(world)
    _claims_the_innocent(bad, 7)
    world.machine.destroy_domain(OTHER)
    assert json.loads(ctl(world, "list", "--json").out) == []
