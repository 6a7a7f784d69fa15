# SPDX-License-Identifier: GPL-2.0-or-later
"""That the demo's attack on memory which was given back sees what there is to see, and changes what it can."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from dom0_backend.keep import Keeper
from dom0_backend.probe import Prober
from domU_frontend.blk import PAGE
from domU_frontend.process import FrontendProcess
from xen_shadowvq import sweeping
from xen_shadowvq.demo.aftermath import Witness
from xen_shadowvq.domain import hypervisor_socket
from xen_shadowvq.hypervisor import Hypervisor, grants_per_frame

from .conftest import Connect
from .keeper import InFlight
from .world import BACKEND, FRONTEND, FRONTEND_MIB, MEDIATOR, MIB, World

SEED = 1234
GREFS = range(64 * grants_per_frame())


@pytest.fixture
def attacker(world: World) -> Iterator[Hypervisor]:
    """An attacker in the backend's domain."""
    with Hypervisor("backend", hypervisor_socket(world.sim, BACKEND)) as hypervisor:
        yield hypervisor


def see(attacker: Hypervisor) -> set[int]:
    """What is seen through grants."""
    return Prober(attacker).see(FRONTEND, FRONTEND_MIB * MIB // PAGE, GREFS, MEDIATOR, grants_per_frame(), SEED)


def test_memory_that_is_given_back_too_early_is_seen(world: World, connect: Connect, attacker: Hypervisor) -> None:
    """A driver that uses pages again although they are granted still is found out by the attacker, page by page; one
    that waits is not."""
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    request = InFlight(world, frontend, device, 16)
    frontend.driver.use_own(SEED)
    assert see(attacker) == set()
    first = frontend.driver.data_first_page
    frontend.driver.fill_tags(first, 32, SEED)
    frames = {frontend.driver.gpa(first + page) // PAGE for page in range(32)}
    assert len(see(attacker)) == len(request.grefs) and see(attacker) <= frames
    world.backend.resume()
    request.abandon()
    frontend.disconnect()
    assert see(attacker) == set()


def test_what_is_kept_is_seen_and_written(world: World, connect: Connect, attacker: Hypervisor) -> None:
    """Pages that the attacker keeps are seen and changed through its mappings, whatever their entries say by then."""
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    request = InFlight(world, frontend, device, 16)
    keeper = Keeper(attacker)
    assert keeper.keep(FRONTEND, GREFS, 3) == 3
    world.backend.resume()
    assert frontend.wait_held(3) == 3
    request.abandon()
    frontend.driver.use_own(SEED)
    assert (keeper.see(SEED), see(attacker), keeper.scribble()) == (set(), set(), 3)
    assert frontend.driver.own_changed(SEED) == 0
    assert world.observer.take() == []
    frontend.driver.take_back("CLOSED")  # a lie
    frontend.driver.use_own(SEED)
    assert len(keeper.see(SEED)) == 3
    keeper.scribble()
    assert frontend.driver.own_changed(SEED) == 3
    assert world.observer.take() != []
    keeper.let_go()
    frontend.wait_closed()
    assert keeper.see(SEED) == set()


class Attacker:
    """What the demo's witness asks of the backend's domain, which has an honest service as well."""

    def __init__(self, world: World, device: int, hypervisor: Hypervisor) -> None:
        self._world, self._device = world, device
        self._keeper, self._hypervisor, self._chains = Keeper(hypervisor), hypervisor, 0

    def __call__(self, method: str, /, **arguments: Any) -> Any:
        return getattr(self, method)(**arguments)

    def hold(self, on: bool) -> None:
        """Stops the honest service."""
        self._chains = self._world.status(self._device)["chains"]
        self._world.backend.stop() if on else self._world.backend.resume()

    def wait_held(self, requests: int) -> None:
        """Until the mediator has made them known."""
        wanted = self._chains + requests
        self._world.until(lambda: self._world.status(self._device)["chains"] >= wanted, f"{wanted} chains")

    def keep(self, frontend: int, grefs: int, count: int) -> dict[str, int]:
        """Keeps some pages."""
        return {"pages": self._keeper.keep(frontend, range(grefs), count)}

    def scribble(self) -> None:
        """Writes over them."""
        self._keeper.scribble()

    def see(self, seed: int, **_: int) -> dict[str, list[int]]:
        """What is seen through grants, and through what is kept."""
        through_grants = Prober(self._hypervisor).see(FRONTEND, FRONTEND_MIB * MIB // PAGE, GREFS, MEDIATOR, 512, seed)
        return {"frames": sorted(through_grants | self._keeper.see(seed))}

    def let_go(self) -> None:
        """Lets go of all pages, and the honest service goes on."""
        self._keeper.let_go()
        self._world.backend.resume()


def test_what_is_kept_past_the_end_of_the_mediators_domain(world: World, attacker: Hypervisor) -> None:
    """A guest whose mediator's domain is destroyed under its requests gives nothing back; dom0 cannot have what the
    backend keeps, and says so; when it has all, the guest has it too. Nothing is reachable that the guest has back."""
    world.keep_alive(FRONTEND)
    device = world.attach(world.image("disk.img"))
    where = {"frontend": FRONTEND, "grefs": len(GREFS)}

    def sweep() -> int:
        return sum(one.held for one in sweeping.sweep(world.dom0, FRONTEND))

    def destroy() -> None:
        world.mediator.kill()
        world.until(lambda: not world.store.is_domain_introduced(MEDIATOR), "end of the mediator's domain")

    with closing(FrontendProcess((world.sim, FRONTEND), device, FRONTEND_MIB, 1)) as frontend:
        frontend.connect()
        witness = Witness(
            lambda method, /, **arguments: getattr(frontend, method)(**arguments),
            Attacker(world, device, attacker),
            where,
        )
        after = witness.mediator_destroyed(0, destroy, sweep)
    assert (after.reachable, after.pages_kept, after.pages_held, after.pages_left) == (0, 3, 3, 0)
    assert (after.completed, after.failed, after.waiting) == (0, 0, after.requests)
    world.detach(device)
