# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowvq ctl apply`: one round, on the embedded machine, with both services."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xen_shadowvq.apply import apply_guest
from xen_shadowvq.declarations import read_directory
from xen_shadowvq.errors import ConfigError

from .command import Done
from .guests_host import SERVED_BY, Host
from .world import BACKEND, FRONTEND, MEDIATOR, OTHER, World

WEB, NEXT = 10, 11


@pytest.fixture
def host(world: World) -> Host:
    """Both services serve, their domains outlive them, and the guest web1 is there."""
    for domid in (MEDIATOR, BACKEND):
        world.keep_alive(domid)
    host = Host(world)
    host.live(WEB)
    return host


def test_disks_come_change_and_go(host: Host) -> None:
    """A declared disk is attached; another image, another order and fewer disks are carried out; each second round has
    nothing to do and changes no node."""
    first, second = (host.world.image(name, 1) for name in ("a.img", "b.img"))
    for disks, said in (
        ((f"{first}",), ["device 0  attached"]),
        ((f"{first}, queues: 2", f"{second}"), ["device 1  attached", "device 0  attached anew"]),
        ((f"{second}, device: 1",), ["device 0  detached"]),
        ((f"{second}", f"{first}"), ["device 0  attached", "device 1  attached anew"]),
        ((), ["device 0  detached", "device 1  detached"]),
    ):
        host.declare(*disks)
        done = host.apply()
        assert (done.status, done.err) == (0, ""), done
        lines = done.out.splitlines()
        assert len(lines) == len(said) and all(words in line for line, words in zip(lines, said, strict=True)), lines
        assert all(line.startswith(f"{WEB} (web1)") for line in lines)
        before = host.world.nodes("/local/domain")
        assert host.apply() == Done(0, f"{WEB} (web1)    as declared\n", "")
        assert host.world.nodes("/local/domain") == before


def test_dry_run_changes_nothing(host: Host) -> None:
    """It says what would be attached, replaced, detached and would wait, and no node of XenStore changes."""
    first, second = (host.world.image(name, 1) for name in ("a.img", "b.img"))
    host.declare(f"{first}", f"{second}")
    assert host.apply().status == 0
    host.live(NEXT, "web2")
    host.declare(f"{first}", name="web2", head="mediator: nobody\n")
    host.declare(f"{first}, queues: 2", f"{second}, device: 7")
    before = host.world.nodes("/local/domain")
    done = host.apply("--dry-run")
    assert (done.status, done.err) == (0, "")
    for words in (
        "device 7 would be attached it is declared", "device 0 would be attached anew its declaration has changed",
        "device 1 would be detached", f"{NEXT} (web2) device 0 would wait there is no domain called nobody",
    ):  # fmt: skip
        assert words in " ".join(done.out.split())
    assert host.world.nodes("/local/domain") == before


def test_what_was_attached_by_hand_stays(host: Host) -> None:
    """A disk attached by hand is left alone, beside declared ones and in their place, which then is said; exit status
    1. That a declared one had its number before makes no difference."""
    by_hand = host.world.image("hand.img", 1)
    for disks in ((f"{by_hand}",), ()):
        host.declare(*disks)
        assert host.apply().status == 0
    assert host.world.attach(by_hand, WEB, device=0) == 0
    assert host.world.attach(by_hand, WEB, device=5, read_only=True) == 5
    host.declare(f"{host.world.image('a.img', 1)}, device: 1", f"{host.world.image('b.img', 1)}, device: 0")
    done = host.apply()
    assert done.status == 1 and "device 1  attached" in done.out
    assert "device 0  waits" in done.out and "attached by hand" in done.out
    host.file().unlink()
    assert host.apply("web1").status == 0
    assert host.digests(WEB) == {0: None, 5: None}


def test_a_bad_file_leaves_its_guest_alone(host: Host) -> None:
    """A file that becomes bad: exit status 2, one line with file, line and key; its guest's disk stays, and another
    guest gets its own."""
    host.declare(f"{host.world.image('a.img', 1)}")
    assert host.apply().status == 0
    record = host.world.dom0.record(WEB, 0)
    host.file().write_text(f"{SERVED_BY}disks:\n  - {{image: a.img}}\n")
    host.live(NEXT, "web2")
    host.declare(f"{host.world.image('b.img', 1)}", name="web2")
    done = host.apply()
    assert done.status == 2
    assert done.err == (
        f"shadowvq: {host.file()}:4: disks[0].image: got 'a.img', expected an absolute path, in printable ASCII\n"
    )
    assert "its file is invalid" in done.out and host.world.dom0.record(WEB, 0) == record and host.offered(NEXT)


def test_names_and_json(host: Host) -> None:
    """Only the guests that are named are looked after; a name that says nothing is refused; JSON has all of it."""
    image = host.world.image("a.img", 1)
    host.declare(f"{image}")
    host.declare(f"{image}", name="web2")
    done = host.apply("web2", "--json")
    assert done.status == 0
    assert json.loads(done.out) == {
        "guests": [
            {"guest": "web2", "domid": None, "device": None, "result": "not running",
             "reason": "its disks are attached when it starts"}
        ],
        "problems": [], "dry_run": False, "exit_status": 0,
    }  # fmt: skip
    assert host.world.dom0.records(WEB) == []
    done = host.apply("web3")
    assert done.status == 2 and done.err.startswith(f"shadowvq: {host.file('web3')}: no such file")


def test_a_directory_that_is_not_there_is_no_empty_one(host: Host) -> None:
    """A directory that is missing gives exit status 2, and nothing is detached."""
    host.declare(f"{host.world.image('a.img', 1)}")
    assert host.apply().status == 0
    host.directory.rename(host.world.directory / "elsewhere")
    done = host.apply()
    assert done.status == 2 and len(done.err.splitlines()) == 1 and str(host.directory) in done.err
    assert host.offered(WEB)


def test_an_image_that_is_not_there_is_said(host: Host) -> None:
    """What the backend says of an image is said, with exit status 1; once the image is there, the next round attaches
    the disk anew, although the guest has never answered."""
    path = host.world.directory / "late.img"
    host.declare(f"{path}")
    done = host.apply("--timeout=20")
    assert done.status == 1 and "device 0  attached" in done.out and "No such file or directory" in done.out
    host.world.image("late.img", 1)
    done = host.apply()
    assert done.status == 0 and "attached anew" in done.out and host.offered(WEB)


def test_nobody_serves(empty_world: World) -> None:
    """Without services a disk is attached all the same; that nobody takes it up is said, with exit status 1; and a disk
    that nobody took up goes at once."""
    host = Host(empty_world)
    host.live(WEB)
    host.declare(f"{empty_world.image('a.img', 1)}")
    done = host.apply("--timeout=0.1")
    assert done.status == 1 and "are both services running?" in done.out
    host.declare()
    assert host.apply("--timeout=30").status == 0 and host.world.dom0.records(WEB) == []


@pytest.mark.parametrize("role", ["mediator", "backend"])
def test_a_domain_that_comes_back_under_another_id(host: Host, role: str) -> None:
    """The mediator's or the backend's domain is destroyed, and there is another of its name: the disk is taken away and
    attached anew, by the new domain. Where there is none yet, it is taken away."""
    world, image = host.world, host.world.image("a.img", 1)
    world.store.write(f"/local/domain/{OTHER}/name", "server")
    names = {"mediator": f"dom{MEDIATOR}", "backend": f"dom{BACKEND}", role: "server"}
    world.machine.set_privilege(OTHER, -2)
    host.declare(f"{image}", head="".join(f"{key}: {value}\n" for key, value in names.items()))
    start = world.start_another_mediator if role == "mediator" else None
    server = start(OTHER) if start else world.start_process(
        "backend", ["xen_shadowvq", "backend", "--sim", str(world.sim), "--domid", str(OTHER)], "service_ready"
    )  # fmt: skip
    assert host.apply().status == 0 and host.offered(WEB)
    server.kill()
    world.until(lambda: world.machine.state(OTHER) == "dead", "end of the domain")
    done = host.apply()
    assert done.status == 1 and f"its {role}, domain {OTHER}, is gone" in done.out
    assert host.device(WEB) is None
    world.store.write(f"/local/domain/{MEDIATOR if role == 'mediator' else BACKEND}/name", "server")
    assert host.apply().status == 0 and host.offered(WEB)


# ---- mediators' domains that are made --------------------------------------------------------------------------------


class Maker:
    """Plays xl on the embedded machine."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.made: list[tuple[str, Path, int]] = []
        self.destroyed: list[int] = []
        self.next = 20
        self.fails = False
        self.dies = False

    def make(self, name: str, config: Path, guest: int) -> None:
        """A domain whose privilege is over that guest."""
        if self.fails:
            raise ConfigError("`xl create` failed: no memory")
        self.next += 1
        self.world.add_domain(self.next)
        self.world.store.write(f"/local/domain/{self.next}/name", name)
        if self.dies:
            raise KeyboardInterrupt  # before it has a target
        self.world.store.write(f"/local/domain/{self.next}/target", str(guest))
        self.world.machine.set_privilege(self.next, guest)
        self.made.append((name, config, guest))

    def destroy(self, domid: int) -> None:
        """Ends a domain, as xl destroy does."""
        self.world.machine.destroy_domain(domid)
        self.destroyed.append(domid)


MADE = f"mediator: med-web1\nmediator_config: /etc/xen/med-web1.cfg\nbackend: dom{BACKEND}\n"


def a_round(host: Host, maker: Maker) -> list[tuple[str, int | None]]:
    """What is done for web1."""
    declared = read_directory(host.directory).guests
    return [(one.result, one.device) for one in apply_guest(host.world.dom0, "web1", declared, maker, 5.0)]


def test_a_mediator_for_each_life(host: Host) -> None:
    """Each life of a guest gets a mediator's domain of its own, made from its file; the last one's is destroyed first;
    a second round makes none."""
    host.declare(f"{host.world.image('a.img', 1)}", head=MADE)
    maker = Maker(host.world)
    for life in (WEB, NEXT):
        if life != WEB:
            host.die(WEB)
            host.live(life)
        assert a_round(host, maker) == [("mediator made", None), ("attached", 0)]
        assert a_round(host, maker) == []
        record = host.world.dom0.record(life, 0)
        assert record is not None and record.mediator == maker.next
        host.world.start_another_mediator(maker.next)
        host.until_offered(life)
    assert maker.made == [("med-web1", Path("/etc/xen/med-web1.cfg"), life) for life in (WEB, NEXT)]
    assert maker.destroyed == [21] and host.world.nodes("/local/domain/21") == {}


def test_a_mediator_that_cannot_be_made(host: Host) -> None:
    """What xl says is the outcome, and nothing of the attempt is in the way of the next."""
    host.declare(f"{host.world.image('a.img', 1)}", head=MADE)
    maker = Maker(host.world)
    maker.fails = True
    assert a_round(host, maker) == [("waits", None)]
    maker.fails = False
    assert a_round(host, maker) == [("mediator made", None), ("attached", 0)] and maker.destroyed == []


def test_whoever_made_it_died_half_way(host: Host) -> None:
    """A mediator's domain without a target, left by one that was killed while making it, is destroyed and made anew;
    one that an operator has is left alone."""
    host.declare(f"{host.world.image('a.img', 1)}", head=MADE)
    maker = Maker(host.world)
    maker.dies = True
    with pytest.raises(KeyboardInterrupt):
        a_round(host, maker)
    maker.dies = False
    assert a_round(host, maker) == [("mediator made", None), ("attached", 0)] and maker.destroyed == [21]
    host.die(WEB)
    host.die(maker.next)
    host.live(NEXT)
    host.world.store.write(f"/local/domain/{FRONTEND}/name", "med-web1")
    assert a_round(host, maker) == [] and maker.destroyed == [21]
    done = host.apply("--timeout=1")
    assert done.status == 1 and f"domain {FRONTEND} (med-web1) has no target" in done.out
