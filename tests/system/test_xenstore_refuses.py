# SPDX-License-Identifier: GPL-2.0-or-later
"""XenStore refuses one request of a service, each in turn over the whole life of a device, for whatever reason."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable

import pytest

from domU_frontend.frontend import Frontend
from xen_shadowvq.errors import ConfigError

from .refusing_store import RefusingStore
from .world import BACKEND, FRONTEND, MEDIATOR, World

pytestmark = pytest.mark.timeout(600)

# No permission, a quota, a disk, a conflict, no memory; in turn, so that each step meets one, and each kind many steps.
REASONS = (errno.EACCES, errno.ENOSPC, errno.EIO, errno.EAGAIN, errno.ENOMEM)
PAGES = 512
CONNECT_S = 3.0  # what came to nothing takes that long, for each request
AGAIN_S = 30.0
STEPS_MIN = 20
STEPS_MAX = 400
DOMIDS = {"mediator": MEDIATOR, "backend": BACKEND}


def live_once(world: World, store: RefusingStore, name: str) -> str:
    """A device from attach to detach; what became of it. Fails if it came to nothing and nobody said why."""
    device = world.attach(world.directory / "disk.img")
    outcome = "served"
    with Frontend(device, sim=(world.sim, FRONTEND), pages=PAGES, queue_size=16) as frontend:
        try:
            frontend.connect(CONNECT_S)
        except ConfigError as error:
            said = world.found(device).error  # by the mediator, or by the backend: what the operator is shown
            outcome = f"{error}; {said}"
            if said is None:  # then it is offered anew, which was too quick for the frontend to see that it was not
                connect_again(world, frontend, f"{name}, {store.refused}: {outcome}")
        else:
            frontend.disconnect()
    world.detach(device)
    return outcome


def connect_again(world: World, frontend: Frontend, name: str) -> None:
    """A driver whose device closed, and has nothing to say against it, tries again."""
    try:
        frontend.reconnect(AGAIN_S)
    except ConfigError as error:
        world.fail(f"{name}; and then {error}")
    frontend.disconnect()


@pytest.mark.parametrize("service", DOMIDS)
def test_each_request_of_a_service_is_refused_once(service: str, empty_world: World) -> None:
    """Whichever request of the mediator or the backend XenStore refuses, the device works, since it was tried again, or
    says what is wrong; it can be detached; and the next one works."""
    world, domid = empty_world, DOMIDS[service]
    world.image("disk.img")
    world.keep_alive(FRONTEND)
    folder, *sockets = world.before_xenstore(domid)
    outcomes: list[str] = []
    with RefusingStore(*sockets) as store:
        start: dict[str, Callable[..., object]] = {"mediator": world.start_mediator, "backend": world.start_backend}
        for name, one in start.items():
            one(directory=folder if name == service else world.sim)
        for number in itertools.count(1):
            assert number <= STEPS_MAX
            reason = REASONS[number % len(REASONS)]
            store.refuse_nth(number, reason)
            name = f"request {number} of the {service} refused with {errno.errorcode[reason]}"
            outcomes.append(live_once(world, store, name))
            if store.refused is None:
                break
            store.refuse_nth(0, 0)
    assert len(outcomes) > STEPS_MIN
    assert outcomes[-1] == "served"
