# SPDX-License-Identifier: GPL-2.0-or-later
"""A backend that keeps pages of ended requests mapped: its device, and no other, stays Closing until none is left."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from domU_frontend.frontend import Frontend
from xen_shadowvq.errors import ConfigError

from .command import ask
from .conftest import Connect, Loop
from .disk_io import goes_on, write_and_compare
from .held_pages import KEPT, PAGES, SHORT_S, heads, held, is_not_closed
from .keeper import InFlight, Keeper
from .world import BACKEND, FRONTEND, MEDIATOR, World, counters_live

Kept = Callable[..., tuple[int, Frontend, Keeper, InFlight]]


@pytest.fixture
def kept(world: World, connect: Connect) -> Iterator[Kept]:
    """A device with a request in flight, of which the backend's domain has mapped the first and the last page."""
    with ExitStack() as stack:

        def make(device: int | None = None, **options: object) -> tuple[int, Frontend, Keeper, InFlight]:
            number = world.attach(world.image("disk.img")) if device is None else device
            frontend = connect(number, **options)
            keeper = stack.enter_context(Keeper(world))
            request = InFlight(world, frontend, number, PAGES)
            stack.callback(world.backend.resume)
            stack.callback(request.abandon)
            keeper.keep([request.grefs[page] for page in KEPT])
            return number, frontend, keeper, request

        yield make


def test_closing_waits_for_kept_pages(world: World, kept: Kept, connect: Connect, loop: Loop) -> None:
    """A device that breaks since its backend keeps two of a request's pages stays Closing, says how many, of which
    request and who has them, while a second disk of the guest goes on; nothing else of the request is reachable; and
    when the backend lets go Closed follows, and it works again."""
    second = world.attach(world.image("second.img"))
    neighbour = loop(connect(second, first_gfn=2048, pages=1024))
    device, frontend, keeper, request = kept()
    world.backend.resume()
    world.until(lambda: held(world, device) == len(KEPT), "held pages")
    is_not_closed(frontend)
    assert world.found(device).state == "Closing"
    assert sum(bin(byte).count("1") for byte in heads(world, device) or b"") == 1
    assert keeper.reachable(request.grefs) == [request.grefs[page] for page in KEPT]
    assert "SVQ_E_GRANT_BUSY" in (world.found(device).error or "")
    status = world.status(device)
    assert (status["held_pages"], status["held_by"]) == (len(KEPT), BACKEND)
    goes_on(world, neighbour)
    (line,) = world.mediator.events("pages_held")
    assert (line["backend"], line["pages"]) == (BACKEND, len(KEPT))

    keeper.let_go()
    frontend.wait_closed()
    request.abandon()
    assert keeper.reachable(request.grefs) == []
    assert (held(world, device), heads(world, device)) == (0, None)
    assert len(world.mediator.events("pages_held")) == len(world.mediator.events("pages_let_go")) == 1
    frontend.reconnect()
    write_and_compare(frontend, random.Random(1), 0)
    goes_on(world, neighbour)
    neighbour.stop()


def test_the_operator_is_told_who_holds_pages(world: World, kept: Kept) -> None:
    """`list` and `status` name the domain that holds pages, how many, and what ends it; --json has both as fields."""
    device, _, keeper, _ = kept()
    world.backend.resume()
    world.until(lambda: held(world, device) == len(KEPT), "held pages")
    told = f"domain {BACKEND} (dom{BACKEND}) still has 2 pages of the guest mapped, or the guest fakes that; "
    told += f"`xl destroy {BACKEND}` ends it"
    assert told in ask("ctl", "list", f"--sim={world.sim}").out
    assert told in ask("ctl", "status", f"--sim={world.sim}", str(FRONTEND), str(device)).out
    (listed,) = json.loads(ask("ctl", "list", f"--sim={world.sim}", "--json").out)
    status = json.loads(ask("ctl", "status", f"--sim={world.sim}", "--json", str(FRONTEND), str(device)).out)
    for found in (listed, status):
        assert (found["held_pages"], found["held_by"]) == (len(KEPT), BACKEND)
    keeper.let_go()
    world.until(lambda: held(world, device) == 0, "end of the held pages")
    (listed,) = json.loads(ask("ctl", "list", f"--sim={world.sim}", "--json").out)
    assert (listed["held_pages"], listed["held_by"]) == (0, None)


def test_detach_waits_as_long_as_it_was_told(world: World, kept: Kept) -> None:
    """`detach` of a device with held pages ends with status 2 and says by whom; the device goes on closing, and once
    the pages are free it goes away by itself, and what dom0 has of it when somebody looks. The guest knows too."""
    device, frontend, keeper, request = kept()
    detach = "ctl", "detach", f"--sim={world.sim}", f"--timeout={SHORT_S}", str(FRONTEND), str(device)
    world.backend.resume()
    world.until(lambda: held(world, device) == len(KEPT), "held pages")
    for _ in range(2):
        done = ask(*detach)
        assert (done.status, done.out) == (2, "")
        assert f"domain {BACKEND} (dom{BACKEND}) still has 2 pages" in done.err and "xl destroy" in done.err
        assert world.found(device).state == "Closing"
    is_not_closed(frontend)
    record = world.dom0.record(FRONTEND, device)
    assert record is not None

    keeper.let_go()
    world.until(lambda: world.store.read(f"{record.mediator_path}/state") is None, "end of the device")
    assert keeper.reachable(request.grefs) == []
    assert ask("ctl", "list", f"--sim={world.sim}").out == "no devices; `shadowvq ctl attach` makes one\n"
    assert world.dom0.record(FRONTEND, device) is None
    assert world.store.read(f"{frontend.path}/state") is None
    frontend.wait_closed()
    assert ask(*detach).status == 2  # there is no such device


def test_the_end_of_the_backends_domain_ends_it(world: World, kept: Kept) -> None:
    """When the domain that keeps the pages is destroyed, Closed follows."""
    device, frontend, _, request = kept()
    world.backend.resume()
    world.until(lambda: held(world, device) == len(KEPT), "held pages")
    is_not_closed(frontend)
    world.machine.destroy_domain(BACKEND)
    frontend.wait_closed()
    request.abandon()
    assert (held(world, device), world.status(device)["held_pages"]) == (0, 0)
    assert world.machine.zombies() == []


def test_a_backend_that_dies_takes_nobody_along(world: World, kept: Kept) -> None:
    """The backend's service is killed with a request in flight while its domain keeps pages: held, until it lets go."""
    device, frontend, keeper, request = kept()
    world.backend.kill()
    world.start_backend()
    world.until(lambda: held(world, device) == len(KEPT), "held pages")
    is_not_closed(frontend)
    assert keeper.reachable(request.grefs) == [request.grefs[page] for page in KEPT]
    keeper.let_go()
    frontend.wait_closed()


def test_a_reset_is_not_done_while_pages_are_held(world: World, kept: Kept) -> None:
    """A queue that is reset while its backend keeps pages of a request is never said to be reset: the device closes."""
    device, frontend, keeper, _ = kept()
    path = world.found(device).path
    frontend.store.write(f"{frontend.path}/queue-0/reset", "1")
    world.backend.resume()
    world.until(lambda: held(world, device) == len(KEPT), "held pages")
    is_not_closed(frontend)
    assert world.store.read(f"{path}/queue-0/reset-done") == "0"
    keeper.let_go()
    frontend.wait_closed()
    assert world.store.read(f"{path}/queue-0/reset-done") == "0"


def test_a_mediator_that_ends_says_what_is_held(empty_world: World, connect: Connect) -> None:
    """SIGTERM with pages held: status 0, leg 1 is left in Closing with `held-pages`, and the log says so. The next
    process keeps it there, and says Closed when they are free."""
    world = empty_world
    world.start_backend()
    world.start_mediator("limits:\n  drain_timeout_ms: 100\n")
    world.keep_alive(MEDIATOR)
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    with Keeper(world) as keeper:
        request = InFlight(world, frontend, device, PAGES)
        keeper.keep([request.grefs[page] for page in KEPT])
        assert world.mediator.terminate() == 0
        assert keeper.reachable(request.grefs) == [request.grefs[page] for page in KEPT]
        assert (world.found(device).state, held(world, device)) == ("Closing", len(KEPT))
        (line,) = world.mediator.events("pages_held_at_exit")
        assert (line["backend"], line["pages"]) == (BACKEND, len(KEPT))
        is_not_closed(frontend)
        world.start_mediator()
        world.until(lambda: world.mediator.events("pages_held"), "held pages of the process before")
        is_not_closed(frontend)
        assert (world.found(device).state, held(world, device), heads(world, device)) == ("Closing", len(KEPT), None)
        world.backend.resume()
        keeper.let_go()
        frontend.wait_closed()
        request.abandon()
        assert keeper.reachable(request.grefs) == []
        frontend.reconnect()
        write_and_compare(frontend, random.Random(1), 0)


def test_a_dead_guest_is_not_waited_for(world: World, kept: Kept) -> None:
    """A guest that is destroyed while pages of it are held: the mediator lets go of everything at once, and the guest's
    end waits for the backend alone."""
    device, _, keeper, request = kept()
    world.backend.resume()
    world.until(lambda: held(world, device) == len(KEPT), "held pages")
    request.abandon()
    before = world.found(device).path
    world.machine.destroy_domain(FRONTEND)
    world.until(lambda: world.store.read(f"{before}/state") is None, "end of the device")
    keeper.let_go()
    world.until(lambda: world.machine.zombies() == [], "end of the domain")


def test_a_guest_cannot_make_the_mediator_forget(world: World, kept: Kept) -> None:
    """A live guest that removes its own nodes while its pages are held does not end the wait for them, nor free the
    device's number."""
    device, frontend, keeper, request = kept()
    world.backend.resume()
    world.until(lambda: held(world, device) == len(KEPT), "held pages")
    path = world.found(device).path
    frontend.store.rm(frontend.path)
    assert not world.happens(lambda: world.store.read(f"{path}/state") != "5", SHORT_S)
    assert held(world, device) == len(KEPT)
    with pytest.raises(ConfigError, match="has a device"):
        world.attach(world.image("second.img"), device=device)
    keeper.let_go()
    world.until(lambda: world.store.read(f"{path}/state") is None, "end of the device")
    assert keeper.reachable(request.grefs) == []
    world.detach(device)
    assert world.dom0.record(FRONTEND, device) is None


def test_a_backend_that_was_merely_slow_lets_go(empty_world: World, connect: Connect, loop: Loop) -> None:
    """A backend's service that is stopped for longer than a close waits keeps what it had mapped; when it goes on it
    sees that its device is closed, lets go, and the device closes without anybody's help."""
    world = empty_world
    world.start_backend()
    world.start_mediator("limits:\n  drain_timeout_ms: 50\n")
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    before = counters_live(world.status(device))
    going = loop(frontend)
    goes_on(world, going)
    world.backend.stop()
    world.store.write(f"{frontend.path}/state", "5")
    world.until(lambda: world.found(device).state == "Closing", "Closing")
    world.until(lambda: world.status(device)["backend_state"] in {"lingering", "closed"}, "leg 2 given up")
    world.backend.resume()
    going.abandon()
    frontend.wait_closed()
    assert world.status(device)["held_pages"] == 0
    assert counters_live(world.status(device)) != before
    frontend.reconnect()
    write_and_compare(frontend, random.Random(1), 0)
