# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains by name, wherever one is asked for, and names in whatever is said about them."""

from __future__ import annotations

import json

import pytest

from .command import Done, ask, ctl
from .world import BACKEND, FRONTEND, MEDIATOR, OTHER, World

NAMES = {MEDIATOR: "med", BACKEND: "drv", FRONTEND: "web1", OTHER: "web 2"}


@pytest.fixture
def named(world: World) -> World:
    """Both services serve; the domains have names as operators give them."""
    for domid, name in NAMES.items():
        world.store.write(f"/local/domain/{domid}/name", name)
        world.keep_alive(domid)
    return world


def test_every_command_takes_names(named: World) -> None:
    """A device is attached, looked at, resized, swept for and detached by names alone; what is said has the id and the
    name."""
    image = named.image("disk.img", 1)
    domains = ["--frontend=web1", "--mediator=med", "--backend=drv"]
    assert ctl(named, "attach", *domains, str(image)) == Done(0, f"domain {FRONTEND} (web1) now has device 0\n", "")
    legs = f"mediator {MEDIATOR} (med): InitWait  backend {BACKEND} (drv): InitWait"
    assert ctl(named, "list").out == f"frontend {FRONTEND} (web1)  device 0  {legs}\n"
    (entry,) = json.loads(ctl(named, "list", "--json").out)
    assert [entry[f"{role}_name"] for role in ("frontend", "mediator", "backend")] == ["web1", "med", "drv"]
    assert json.loads(ctl(named, "status", "web1", "0", "--json").out)["frontend"] == FRONTEND
    image.write_bytes(bytes(2 << 20))
    assert ctl(named, "resize", "web1", "0").out == f"device 0 of domain {FRONTEND} (web1) now has 2,097,152 bytes\n"
    done = ctl(named, "sweep", "web1")
    assert done.status == 2 and f"frontend {FRONTEND} (web1)  device 0  left alone: domain {MEDIATOR} (med)" in done.err
    assert ctl(named, "detach", "web1", "0") == Done(0, f"device 0 of domain {FRONTEND} (web1) is gone\n", "")
    assert ctl(named, "attach", *domains[1:], "--frontend=web 2", str(image)).status == 0
    named.detach(0, OTHER)


def test_errors_have_names(named: World) -> None:
    """Also an error about what is gone says whose it was."""
    named.attach(named.image("disk.img", 1))
    named.mediator.terminate()
    named.store.rm(named.found(0).path)
    done = ctl(named, "status", "web1", "0")
    assert done.err == f"shadowvq: device 0 of domain {FRONTEND} (web1): its mediator, {MEDIATOR} (med), is gone\n"


def test_names_that_say_nothing(named: World) -> None:
    """A name that no domain has, one that several have, and a number that is no id: status 2 and one line."""
    named.store.write(f"/local/domain/{OTHER}/name", "web1")
    for domain, words in {
        "web1": f"several domains are called 'web1': {FRONTEND}, {OTHER}",
        "web\x1b": "there is no domain called 'web\\x1b'",
        "": "is not a domain, expected a name, or an id from 0 to",
        "99999": "is not a domain, expected a name, or an id from 0 to",
    }.items():
        for command in (("status", domain, "0"), ("detach", domain, "0"), ("attach", f"--frontend={domain}", "/x.img")):
            done = ctl(named, *command)
            assert (done.status, done.out) == (2, "") and words in done.err and len(done.err.splitlines()) == 1


def test_digits_are_an_id(named: World) -> None:
    """All digits are an id, as for `xl`, also where a domain is called like that."""
    named.store.write(f"/local/domain/{OTHER}/name", str(FRONTEND))
    done = ask("ctl", "detach", f"--sim={named.sim}", str(FRONTEND), "7")
    assert done.err.startswith(f"shadowvq: domain {FRONTEND} (web1) has no device 7")
