# SPDX-License-Identifier: GPL-2.0-or-later
"""The plan by itself: a small world of domains and devices, in which its steps are carried out and looked at again."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xen_shadowvq.apply_plan import Declarations, Do, Seen, SeenDevice, SeenDomain, Step, names, plan, plan_guest
from xen_shadowvq.declarations import Declaration, Wanted
from xen_shadowvq.dom0 import Declared
from xen_shadowvq.new_device import Disk

WEB, OTHER, MED, DRV = 5, 6, 7, 8
DOM0 = SeenDomain("Domain-0")


def declare(
    *disks: tuple[int, str], name: str = "web1", mediator: str = "med", backend: str = "drv", config: str | None = None
) -> Declaration:
    """Disks as (device, image)."""
    wanted = {device: Wanted(device, backend, Disk(image)) for device, image in disks}
    return Declaration(name, mediator, config, wanted)


def device(declaration: Declaration, number: int, **changes: object) -> SeenDevice:
    """A device as it is when that declaration has attached it, and all is well."""
    seen = SeenDevice(number, MED, DRV, declaration.stands_for(number))
    return replace(seen, **changes)  # type: ignore[arg-type]


def world(*devices: SeenDevice, **changes: SeenDomain | None) -> Seen:
    """dom0, the guest web1 with these devices, its mediator and its backend; `changes` replace one of them."""
    domains: dict[str, SeenDomain | None] = {
        "web": SeenDomain("web1", devices=devices), "med": SeenDomain("med"), "drv": SeenDomain("drv"), **changes
    }  # fmt: skip
    ids = {"web": WEB, "other": OTHER, "med": MED, "drv": DRV}
    return Seen({0: DOM0, **{ids[name]: one for name, one in domains.items() if one is not None}})


def dos(declaration: Declaration | None, seen: Seen) -> list[tuple[Do, int | None]]:
    return [(step.do, step.device) for step in plan({"web1": declaration}, seen)]


ONE = declare((0, "/a"))


def test_what_is_declared_is_attached() -> None:
    """A guest that runs without its disks gets them, from the domains that the names mean now."""
    (step,) = plan({"web1": ONE}, world())
    assert (step.do, step.domid, step.device, step.mediator, step.backend) == (Do.ATTACH, WEB, 0, MED, DRV)
    assert step.wanted == ONE.wanted[0]


def test_what_is_as_declared_stays() -> None:
    """There is nothing to do where all is as declared, nor for a guest that is not there."""
    assert plan({"web1": ONE}, world(device(ONE, 0))) == []
    assert plan({"web1": ONE}, world(web=None)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"declared": Declared("web1", b"other")}, "its declaration has changed"),
        ({"mediator": 77}, "its mediator, domain 77, is gone"),
        ({"backend": 77}, "its backend, domain 77, is gone"),
        ({"mediator": DRV}, f"its mediator is domain {DRV}, but domain {MED} is declared"),
        ({"backend": MED}, f"its backend is domain {MED}, but domain {DRV} is declared"),
        ({"mediated": False}, "its mediator has removed it"),
        ({"backed": False}, "its backend has removed it"),
        ({"leaving": True}, "it is being detached"),
        ({"offered": False, "refused": "too many"}, "too many"),
    ],
)
def test_what_cannot_stay_is_replaced(change: dict[str, object], reason: str) -> None:
    """Each way for a device to be another than the declared one, or to be of no use any more, with its reason."""
    (step,) = plan({"web1": ONE}, world(device(ONE, 0, **change)))
    assert (step.do, step.device, step.reason, step.mediator) == (Do.REPLACE, 0, reason, MED)


def test_what_cannot_be_attached_anew_is_taken_away_at_once() -> None:
    """A device whose mediator is gone is no use to its guest; what comes after has to wait, and is said then."""
    seen = world(device(ONE, 0), med=None)
    (step,) = plan({"web1": ONE}, seen)
    assert (step.do, step.reason) == (Do.DETACH, f"its mediator, domain {MED}, is gone; there is no domain called med")
    (step,) = plan({"web1": ONE}, world(med=None))
    assert (step.do, step.reason) == (Do.WAIT, "there is no domain called med")


def test_a_name_that_says_nothing_takes_nothing_away() -> None:
    """While mediator and backend are there, a device stays, though their names are not to be found, or are twice."""
    for med in (SeenDomain("renamed"), SeenDomain("drv")):
        assert all(step.do is Do.WAIT for step in plan({"web1": ONE}, world(device(ONE, 0), med=med)))


def test_what_was_attached_by_hand_is_never_touched() -> None:
    """Neither a device beside the declared ones, nor one under a declared number, nor one of an undeclared guest."""
    by_hand = SeenDevice(0, MED, DRV), SeenDevice(3, 77, 78, mediated=False)
    ((do, number),) = dos(ONE, world(*by_hand))
    assert (do, number) == (Do.WAIT, 0)
    assert plan({}, world(*by_hand)) == []


def test_what_is_not_declared_any_more_goes() -> None:
    """A disk that was taken out of the file, and all disks of a file that was removed."""
    two = declare((0, "/a"), (1, "/b"))
    seen = world(device(two, 0), device(two, 1), SeenDevice(2, MED, DRV))
    assert dos(ONE, seen) == [(Do.DETACH, 1)]
    assert [(step.do, step.device) for step in plan({}, seen)] == [(Do.DETACH, 0), (Do.DETACH, 1)]


def test_a_bad_file_takes_nothing_away_and_gives_nothing() -> None:
    """Its guest keeps what it has, also what the good file did not have; the other guest gets its disk."""
    other = declare((0, "/o"), name="web2")
    seen = world(device(ONE, 0), SeenDevice(4, MED, DRV, Declared("web1", b"x")), other=SeenDomain("web2"))
    assert [(step.guest, step.do) for step in plan({"web1": None, "web2": other}, seen)] == [("web2", Do.ATTACH)]


def test_a_guest_that_was_renamed_keeps_its_disks() -> None:
    """They are the declaration's of the old name, which is still there; a new guest of that name gets its own."""
    old = SeenDomain("web1-old", devices=(device(ONE, 0),))
    (step,) = plan({"web1": ONE}, world(other=old))
    assert (step.do, step.domid) == (Do.ATTACH, WEB)


def test_who_is_not_clear_or_not_ready_waits() -> None:
    """Two domains of one name, and a domain that is still being created: that is reported, and nothing is done."""
    assert dos(ONE, world(other=SeenDomain("web1"))) == [(Do.WAIT, None)]
    (step,) = plan({"web1": ONE}, world(web=SeenDomain("web1", ready=False)))
    assert (step.do, step.soon) == (Do.WAIT, True)


def test_dom0_is_no_guest() -> None:
    """A declaration of that name attaches nothing to dom0."""
    assert plan({"Domain-0": declare((0, "/a"), name="Domain-0")}, world()) == []


def test_a_device_that_nobody_has_offered_is_said() -> None:
    """A device that is not offered yet is waited for, with where it stands, or with what is wrong."""
    for error in (False, True):
        seen = world(device(ONE, 0, offered=False, pending="why", error=error))
        (step,) = plan({"web1": ONE}, seen)
        assert (step.do, step.reason, step.soon) == (Do.WAIT, "why", not error)


def test_a_detach_comes_last() -> None:
    """A detach can take long: what the guest should have does not wait for it."""
    three = declare((0, "/new"), (1, "/b"), (2, "/c"))
    seen = world(device(declare((0, "/old")), 0), device(declare((9, "/i")), 9))
    assert dos(three, seen) == [(Do.ATTACH, 1), (Do.ATTACH, 2), (Do.REPLACE, 0), (Do.DETACH, 9)]


# ---- mediators' domains that are made --------------------------------------------------------------------------------

MADE = declare((0, "/a"), config="/m.cfg")


@pytest.mark.parametrize("med", [None, SeenDomain("med", target=77)], ids=["none", "of an earlier life"])
def test_a_mediator_is_made(med: SeenDomain | None) -> None:
    """A mediator's domain is made before the disk is attached, if there is none, or only one whose guest is gone."""
    assert dos(MADE, world(med=med)) == [(Do.MAKE_MEDIATOR, None), (Do.ATTACH, 0)]


@pytest.mark.parametrize("target", [None, OTHER], ids=["nobody", "somebody else"])
def test_a_mediator_that_may_be_anybodys_is_left_alone(target: int | None) -> None:
    """A domain of that name that has no target, or one that is still there, may be doing something else."""
    seen = world(med=SeenDomain("med", target=target), other=SeenDomain("web2"))
    assert dos(MADE, seen) == [(Do.WAIT, 0)]


def test_the_right_mediator_is_used() -> None:
    """A mediator's domain that was made for this life of the guest is used."""
    assert dos(MADE, world(med=SeenDomain("med", target=WEB))) == [(Do.ATTACH, 0)]


def test_a_mediator_that_was_half_made_is_made_anew() -> None:
    """A domain that was half made is made again, even if it has no target yet: the mark says that it is ours."""
    seen = replace(world(), unfinished=frozenset({("web1", "med")}))
    assert dos(MADE, seen) == [(Do.MAKE_MEDIATOR, None), (Do.ATTACH, 0)]


def test_no_mediator_for_a_guest_without_disks_or_without_life() -> None:
    """No domain is made for a guest without disks, or for one that does not run."""
    assert dos(declare(config="/m.cfg"), world(med=None)) == []
    assert dos(MADE, world(web=None, med=None)) == []


# ---- any world -------------------------------------------------------------------------------------------------------


class Host:
    """Domains that are started and ended, and what the plan's steps make of them."""

    def __init__(self, declared: Declarations, seen: Seen) -> None:
        self.declared, self.seen = declared, seen
        self.destroyed: list[SeenDomain] = []
        self._next = max(seen.domains, default=0) + 100

    def round(self) -> None:
        """Acts like the executor: one guest at a time, with a new look after a mediator was made."""
        for name in names(self.declared, self.seen):
            steps = plan_guest(name, self.declared, self.seen)
            if steps and steps[0].do is Do.MAKE_MEDIATOR:
                self._make_mediator(steps[0])
                steps = plan_guest(name, self.declared, self.seen)
                assert Do.MAKE_MEDIATOR not in [step.do for step in steps]
            for step in steps:
                self._take(step)

    def _make_mediator(self, step: Step) -> None:
        declaration = self.declared[step.guest]
        assert declaration is not None
        ended = {domid: one for domid, one in self.seen.domains.items() if one.name == declaration.mediator}
        self.destroyed += ended.values()
        kept = {domid: one for domid, one in self.seen.domains.items() if domid not in ended}
        self._next += 1
        made = {self._next: SeenDomain(declaration.mediator, target=step.domid)}
        self.seen = Seen({**kept, **made}, self.seen.unfinished - {(step.guest, declaration.mediator)})

    def _take(self, step: Step) -> None:
        if step.do is Do.WAIT:
            return
        assert step.domid is not None
        guest = self.seen.domains[step.domid]
        devices = {device.device: device for device in guest.devices}
        if step.do in {Do.DETACH, Do.REPLACE}:
            gone = devices.pop(step.device or 0)
            assert gone.declared is not None and gone.declared.name == step.guest
        if step.do in {Do.ATTACH, Do.REPLACE}:
            declaration = self.declared[step.guest]
            assert declaration and step.wanted and step.mediator is not None and step.backend is not None
            assert step.device not in devices
            number = step.wanted.device
            devices[number] = SeenDevice(number, step.mediator, step.backend, declaration.stands_for(number))
        changed = replace(guest, devices=tuple(devices.values()))
        self.seen = replace(self.seen, domains={**self.seen.domains, step.domid: changed})


guests = st.sampled_from(["web1", "web2"])
servers = st.sampled_from(["med", "drv", "0", "4"])
numbers = st.integers(0, 2)
images = st.sampled_from(["/a", "/b"])


@st.composite
def declarations(draw: st.DrawFn) -> dict[str, Declaration | None]:
    """What may be in the directory, bad files included; each guest that makes a mediator has one of its own name."""
    found: dict[str, Declaration | None] = {}
    for name in draw(st.sets(guests)):
        disks = draw(st.dictionaries(numbers, images))
        config = draw(st.sampled_from([None, "/m.cfg"]))
        mediator = f"med-{name}" if config else draw(servers)
        declaration = declare(*disks.items(), name=name, mediator=mediator, backend=draw(servers), config=config)
        found[name] = None if draw(st.integers(0, 5)) == 0 else declaration
    return found


@st.composite
def devices(draw: st.DrawFn) -> tuple[SeenDevice, ...]:
    """Devices of one guest: in any state, attached by hand or for any declaration."""
    flags = st.booleans()
    found = []
    for number in draw(st.sets(numbers)):
        digest = Wanted(number, "", Disk(draw(images))).digest
        declared = draw(st.none() | st.builds(Declared, guests, st.just(digest)))
        offered, refused = draw(flags), draw(st.none() | st.just("refused"))
        known = number, draw(st.integers(0, 9)), draw(st.integers(0, 9)), declared
        found.append(SeenDevice(*known, draw(flags), draw(flags), draw(flags), offered, refused, "pending"))
    return tuple(found)


@st.composite
def hosts(draw: st.DrawFn) -> Seen:
    """dom0 and up to eight others, of which several may have one name, with targets of all kinds."""
    called = st.sampled_from(["web1", "web2", "med", "drv", "med-web1", "med-web2", None])
    targets = st.none() | st.integers(1, 12)
    found = {
        domid: SeenDomain(draw(called), draw(st.booleans()), draw(targets), draw(devices()))
        for domid in draw(st.sets(st.integers(1, 9), max_size=8))
    }
    return Seen({0: DOM0, **found}, frozenset(draw(st.sets(st.tuples(guests, st.sampled_from(["med", "med-web1"]))))))


@settings(deadline=None)
@given(declarations(), hosts())
def test_after_one_round_nothing_is_left_to_do(declared: dict[str, Declaration | None], seen: Seen) -> None:
    """Whatever there is and whatever is declared: a round leaves nothing but what has to wait, and so a second changes
    nothing. (`_take` sees to it that nothing is detached but what that declaration had attached.)"""
    host = Host(declared, seen)
    host.round()
    assert [step for step in plan(declared, host.seen) if step.do is not Do.WAIT] == []
    after = host.seen
    host.round()
    assert host.seen == after


@settings(deadline=None)
@given(declarations(), hosts())
def test_no_domain_is_destroyed_that_may_be_of_use(declared: dict[str, Declaration | None], seen: Seen) -> None:
    """A domain goes only if it had a target that is gone, or was begun by us; and no other device or domain changes."""
    host = Host(declared, seen)
    host.round()
    for domain in host.destroyed:
        begun = any(one and (name, domain.name) in seen.unfinished for name, one in declared.items())
        assert begun or (domain.target is not None and domain.target not in seen.domains)
    untouched = {
        (domid, one) for domid, domain in seen.domains.items() for one in domain.devices
        if one.declared is None or declared.get(one.declared.name, 0) is None
    }  # fmt: skip
    left = {(domid, one) for domid, domain in host.seen.domains.items() for one in domain.devices}
    gone = {domid for domid in seen.domains if domid not in host.seen.domains}
    assert {(domid, one) for domid, one in untouched if domid not in gone} <= left


ARRIVALS = [
    {WEB: SeenDomain("web1")}, {OTHER: SeenDomain("web2")}, {MED: SeenDomain("med")}, {DRV: SeenDomain("drv")}
]  # fmt: skip


@pytest.mark.parametrize("order", list(itertools.permutations(range(len(ARRIVALS)))), ids=str)
@pytest.mark.parametrize("made", [False, True], ids=["given", "made"])
def test_the_order_of_arrival_does_not_matter(order: tuple[int, ...], made: bool) -> None:
    """Domains come one after another, in any order, with a round after each: in the end each guest has its disks."""
    first = declare((0, "/a"), (3, "/b"), mediator="med-web1" if made else "med", config="/m.cfg" if made else None)
    declared = {"web1": first, "web2": declare((0, "/c"), name="web2")}
    host = Host(declared, Seen({0: DOM0}))
    for index in order:
        host.seen = replace(host.seen, domains={**host.seen.domains, **ARRIVALS[index]})
        host.round()
    found = {
        domain.name: [(one.device, host.seen.domains[one.mediator].name, one.backend) for one in domain.devices]
        for domain in host.seen.domains.values()
        if domain.devices
    }
    assert found == {"web1": [(0, first.mediator, DRV), (3, first.mediator, DRV)], "web2": [(0, "med", DRV)]}
    assert host.destroyed == []


def test_the_next_life_of_a_guest_needs_nothing_of_the_last() -> None:
    """Five lives, each with another domid: each has its disks, and each mediator that was made serves one of them."""
    host = Host({"web1": MADE}, Seen({0: DOM0, DRV: SeenDomain("drv")}))
    for life in range(20, 25):
        host.seen = replace(host.seen, domains={**host.seen.domains, life: SeenDomain("web1")})
        host.round()
        (one,) = host.seen.domains[life].devices
        assert host.seen.domains[one.mediator] == SeenDomain("med", target=life)
        host.seen = replace(host.seen, domains={domid: d for domid, d in host.seen.domains.items() if domid != life})
        host.round()
    assert len(host.destroyed) == 4
