# SPDX-License-Identifier: GPL-2.0-or-later
"""A frontend that says wrong things in XenStore: its device closes with one clear error, and only its device."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from domU_frontend.frontend import Frontend
from xen_shadowvq.publish import publish
from xen_shadowvq.xenbus import Event, Phase
from xenstore_schema import nodes

from .conftest import connector
from .disk_io import IoLoop, goes_on, write_and_compare
from .world import FRONTEND, FRONTEND_MIB, MIB, OTHER, World

Texts = dict[str, str | None]
BEYOND = FRONTEND_MIB * MIB
FAR_BEYOND = 1 << 63
PAUSE_S = 0.02


class LyingFrontend(Frontend):
    """Sets up rings as it should, and then writes other texts over some nodes (None: removes them)."""

    lies: Callable[[LyingFrontend], Texts] | None = None

    def _set_up(self) -> Event:
        done = super()._set_up()
        for name, text in (self.lies(self) if self.lies else {}).items():
            if text is None:
                self.store.rm(f"{self.path}/{name}")
            else:
                self.store.write(f"{self.path}/{name}", text)
        return done

    def told(self) -> str:
        """The mediator's error."""
        return self.store.read(f"{self._peer}/error") or ""

    def needs_reset(self) -> bool:
        """The mediator's needs-reset."""
        return self.store.read(f"{self._peer}/needs-reset") == "1"


@pytest.fixture(scope="module")
def sibling(shared_world: World) -> Iterator[IoLoop]:
    """Another device of the same frontend, whose I/O goes on all the time."""
    with ExitStack() as stack:
        device = shared_world.attach(shared_world.image("sibling.img"))
        io = IoLoop(connector(shared_world, stack)(device, pages=1024, first_gfn=2048), pause_s=PAUSE_S)
        yield io
        io.stop()


@pytest.fixture
def liar(shared_world: World, sibling: IoLoop) -> Iterator[LyingFrontend]:
    """A frontend with a device of its own, not connected; it lies as its `lies` says. (`sibling` keeps the domain
    alive.)"""
    device = shared_world.attach(shared_world.image("liar.img"))
    with LyingFrontend(device, sim=(shared_world.sim, FRONTEND), pages=2048, queue_size=64) as frontend:
        frontend.connect()
        frontend.disconnect()
        yield frontend
    shared_world.detach(device)


def try_lies(liar: LyingFrontend, lies: Callable[[LyingFrontend], Texts]) -> None:
    """Goes through a round with these lies to its end."""
    liar.lies = lies
    liar.store.watch(liar.side.peer_state_path, "peer")
    liar.side.feed(Event.REOPEN)
    liar._run_until(lambda: liar.side.phase not in {Phase.WAITING, Phase.CLOSED}, 20, "offered")
    liar.wait_closed(20)
    liar.lies = None


def at(node: str, text: str | None) -> Callable[[LyingFrontend], Texts]:
    """One lie."""
    return lambda _: {node: text}


def features_with(change: Callable[[int], int]) -> Callable[[LyingFrontend], Texts]:
    """A lie about the features accepted."""
    return lambda liar: {"features-accepted": str(change(liar.features))}


def used_over_avail(liar: LyingFrontend) -> Texts:
    """A used ring that lies on the available ring."""
    return {"queue-0/used": str(liar.driver.addresses(0).avail)}


CASES: dict[str, tuple[Callable[[LyingFrontend], Texts], list[str]]] = {
    "a feature that was not offered": (
        features_with(lambda f: f | 1 << 34), ["features-accepted", "RING_PACKED"]),
    "without VERSION_1": (
        features_with(lambda f: f & ~(1 << 32)), ["features-accepted", "VERSION_1"]),
    "without ACCESS_PLATFORM": (
        features_with(lambda f: f & ~(1 << 33)), ["features-accepted", "ACCESS_PLATFORM"]),
    "size no power of two": (at("queue-0/size", "48"), ["queue-0/size", "'48'", "a power of two"]),
    "size 0": (at("queue-0/size", "0"), ["queue-0/size", "'0'", "1 to 1024"]),
    "size beyond the offer": (at("queue-0/size", "512"), ["queue-0/size", "'512'", "at most 256"]),
    "descriptors unaligned": (
        lambda f: {"queue-0/desc": str(f.driver.addresses(0).desc + 8)}, ["queue 0", "aligned", "descriptors 16"]),
    "available ring unaligned": (
        lambda f: {"queue-0/avail": str(f.driver.addresses(0).avail + 1)}, ["queue 0", "aligned", "available 2"]),
    "used ring unaligned": (
        lambda f: {"queue-0/used": str(f.driver.addresses(0).used + 2)}, ["queue 0", "aligned", "used 4"]),
    "ring beyond the memory": (at("queue-0/desc", str(BEYOND)), ["queue 0", "RAM"]),
    "ring far beyond all memory": (at("queue-0/used", str(FAR_BEYOND)), ["queue 0", "end of the guest's memory"]),
    "ring at the end of all numbers": (at("queue-0/avail", str(2**64 - 2)), ["queue 0", "end of the guest's memory"]),
    "rings on each other": (used_over_avail, ["queue 0", "overlap"]),
    "an event channel that nobody made": (
        at("queue-0/event-channel", "4000"), ["queue-0/event-channel", "'4000'", "unbound"]),
    "an event channel beyond all": (
        at("queue-0/event-channel", str(2**32 - 1)), ["queue-0/event-channel", "unbound"]),
    "event channel 0": (at("queue-0/event-channel", "0"), ["queue-0/event-channel", "'0'", "1 to"]),
    "no queues": (at("num-queues", "0"), ["num-queues", "'0'", "1 to 64"]),
    "too many queues": (at("num-queues", "2"), ["num-queues", "'2'", "at most 1"]),
    "far too many queues": (at("num-queues", "65535"), ["num-queues", "'65535'", "1 to 64"]),
    "hexadecimal": (at("queue-0/desc", "0x1000"), ["queue-0/desc", "'0x1000'", "decimal"]),
    "negative": (at("queue-0/avail", "-1"), ["queue-0/avail", "'-1'", "decimal"]),
    "leading zero": (at("queue-0/size", "064"), ["queue-0/size", "'064'", "decimal"]),
    "empty": (at("queue-0/size", ""), ["queue-0/size", "''", "decimal"]),
    "no text at all": (at("features-accepted", "\x00\x07\x1b[31m"), ["features-accepted", "\\x1b", "decimal"]),
    "beyond 64 bits": (at("queue-0/desc", str(2**64)), ["queue-0/desc", "decimal"]),
    "1900 digits": (at("features-accepted", "9" * 1900), ["features-accepted", "(1900 long)", "decimal"]),
    "1900 bytes in a number of 16 bits": (at("num-queues", "x" * 1900), ["num-queues", "(1900 long)", "decimal"]),
    "features missing": (at("features-accepted", None), ["features-accepted", "(absent)", "required"]),
    "a ring address missing": (at("queue-0/used", None), ["queue-0/used", "(absent)", "required"]),
    "event channel missing": (at("queue-0/event-channel", None), ["queue-0/event-channel", "(absent)", "required"]),
    "num-queues missing": (at("num-queues", None), ["num-queues", "(absent)", "required"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_lie_is_named_and_costs_only_its_device(
    case: str, shared_world: World, liar: LyingFrontend, neighbour: IoLoop, sibling: IoLoop
) -> None:
    """What a frontend got wrong stands in `error` as one line with node or queue, value and expectation, and needs-
    reset is 1; I/O of another frontend and of another device of the same frontend goes on; and the device works
    again."""
    lies, words = CASES[case]
    try_lies(liar, lies)
    told = liar.told()
    assert liar.needs_reset()
    assert "\n" not in told and len(told) < 400
    assert [word for word in words if word not in told] == [], told
    goes_on(shared_world, neighbour, 1)
    goes_on(shared_world, sibling, 1)
    liar.reconnect()
    assert (liar.told(), liar.needs_reset()) == ("", False)
    write_and_compare(liar, random.Random(3), 0)
    liar.disconnect()


@pytest.mark.parametrize("text", ["garbage", "", "99", "-4", "4 ", "4" * 1900])
def test_a_state_that_is_none_is_named(
    text: str, shared_world: World, liar: LyingFrontend, neighbour: IoLoop, sibling: IoLoop
) -> None:
    """A connected frontend whose `state` is no XenBus state loses its connection, with an error that names the
    node."""
    liar.reconnect()
    liar.store.write(f"{liar.path}/state", text)
    shared_world.until(liar.told, "error")
    assert "/state: got" in liar.told() and "expected a XenBus state, 0 to 8" in liar.told()
    liar.wait_closed()
    goes_on(shared_world, neighbour, 1)
    goes_on(shared_world, sibling, 1)
    liar.reconnect()
    write_and_compare(liar, random.Random(4), 0)
    liar.disconnect()


@pytest.mark.parametrize("node", ["reset", "enable"])
def test_nonsense_in_the_reset_nodes_is_named(
    node: str, shared_world: World, liar: LyingFrontend, neighbour: IoLoop
) -> None:
    """Garbage in the nodes of a ring reset on a running device closes that device, with an error that names the
    node."""
    liar.reconnect()
    if node == "enable":
        publish(liar.store, liar.path, [(nodes.VirtioFront.QUEUE_RESET, 1, 0)])
        shared_world.until(lambda: liar.store.read(f"{liar._peer}/queue-0/reset-done") == "1", "reset")
    liar.store.write(f"{liar.path}/queue-0/{node}", "many")
    liar.wait_closed()
    assert f"queue-0/{node}: got 'many', expected a number" in liar.told()
    goes_on(shared_world, neighbour, 1)
    liar.store.rm(f"{liar.path}/queue-0/{node}")
    liar.reconnect()
    write_and_compare(liar, random.Random(5), 0)
    liar.disconnect()


def test_many_writes_to_the_state_do_not_stop_the_mediator(
    shared_world: World, liar: LyingFrontend, neighbour: IoLoop
) -> None:
    """A frontend that writes its state a thousand times keeps the mediator's control thread busy, but not from
    answering others: a status request is answered meanwhile and the neighbour's I/O goes on."""
    liar.reconnect()
    for number in range(1000):
        liar.store.write(f"{liar.path}/state", "4")
        if number == 500:
            shared_world.status(0, OTHER)
    goes_on(shared_world, neighbour, 1)
    write_and_compare(liar, random.Random(6), 0)
    liar.disconnect()
