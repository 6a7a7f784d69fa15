# SPDX-License-Identifier: GPL-2.0-or-later
"""
What is to be done so that guests have the disks that are declared: from what is seen, with nothing done or asked.

All that is seen stands where dom0 wrote it, or where no guest can write: a guest that could have a say in it could have
another's disks taken away, or domains destroyed (XSA-175).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from xen_shadowvq.declarations import Declaration, Wanted
from xen_shadowvq.dom0 import Declared, with_name

NEVER_A_GUEST = 0  # dom0


@dataclass(frozen=True)
class SeenDevice:
    """A device of a guest, by dom0's record and the halves of mediator and backend."""

    device: int
    mediator: int
    backend: int
    declared: Declared | None = None
    mediated: bool = True
    """The mediator's half of leg 1 is there."""
    backed: bool = True
    """The backend's half of leg 2 is there."""
    leaving: bool = False
    """Somebody has asked the mediator to close it."""
    offered: bool = True
    """The mediator has offered it to the guest at some time."""
    refused: str | None = None
    """Why the mediator will not offer it as it is."""
    pending: str = ""
    """Where it stands, or what is wrong, while it is not offered."""
    error: bool = False
    """Something is wrong with it: while it is not offered, it will not be offered in a moment."""


@dataclass(frozen=True)
class SeenDomain:
    """A domain that xenstored knows."""

    name: str | None
    ready: bool = True
    """The toolstack has come far enough with making it."""
    target: int | None = None
    """The domain that it may mediate for, where it is no other's."""
    devices: tuple[SeenDevice, ...] = ()


@dataclass(frozen=True)
class Seen:
    """All domains by their ids, and the mediators' domains that were begun and not finished: (guest, its name)."""

    domains: Mapping[int, SeenDomain]
    unfinished: frozenset[tuple[str, str]] = field(default_factory=frozenset)


class Do(enum.Enum):
    """What a step does."""

    MAKE_MEDIATOR = "make the mediator's domain"
    ATTACH = "attach"
    DETACH = "detach"
    REPLACE = "detach, and attach anew"
    WAIT = "wait"


GOING = frozenset({Do.DETACH, Do.REPLACE})
COMING = frozenset({Do.ATTACH, Do.REPLACE})


@dataclass(frozen=True)
class Step:
    """
    One thing to do, for one guest. `mediator` None with ATTACH and REPLACE: the one that is made before. `soon`: with
    WAIT, that it may be over in a moment, if all is well.
    """

    do: Do
    guest: str
    domid: int
    reason: str
    device: int | None = None
    wanted: Wanted | None = None
    mediator: int | None = None
    backend: int | None = None
    soon: bool = False


Declarations = Mapping[str, Declaration | None]


def names(declared: Declarations, seen: Seen) -> list[str]:
    """All guests that there may be anything to do for: those declared, and those whose devices were."""
    attached_for = {
        device.declared.name for domain in seen.domains.values() for device in domain.devices if device.declared
    }
    return sorted(set(declared) | attached_for)


def plan(declared: Declarations, seen: Seen) -> list[Step]:
    """The steps for all guests. Nobody's depend on another's."""
    return [step for name in names(declared, seen) for step in plan_guest(name, declared, seen)]


def guest_domid(name: str, seen: Seen) -> int | None:
    """The domain of that name, None: there is none, or there are several."""
    found = _named(name, seen)
    return found[0] if len(found) == 1 else None


def plan_guest(name: str, declared: Declarations, seen: Seen) -> list[Step]:
    """
    The steps for one guest, in the order to take them; none: all is as declared, or the guest is not there. A name that
    is not in `declared` has no file; one with None has a bad one, and keeps what it has.
    """
    if name not in declared:
        return [
            Step(Do.DETACH, name, domid, "it is not declared any more", device.device)
            for domid, domain in sorted(seen.domains.items())
            for device in domain.devices
            if device.declared and device.declared.name == name
        ]
    declaration = declared[name]
    if declaration is None:
        return []
    found = _named(name, seen)
    if not found:
        return []
    if len(found) > 1:
        ids = ", ".join(map(str, found))
        return [Step(Do.WAIT, name, found[0], f"several domains are called {name}: {ids}")]
    if not seen.domains[found[0]].ready:
        return [Step(Do.WAIT, name, found[0], "the domain is still being made", soon=True)]
    return _Guest(declaration, found[0], seen).steps()


def _named(name: str, seen: Seen) -> list[int]:
    return sorted(domid for domid, domain in seen.domains.items() if domain.name == name and domid != NEVER_A_GUEST)


@dataclass(frozen=True)
class _Mediator:
    """Its id; or, where it has none, why it is to be made, or what has to come first."""

    domid: int | None = None
    make: str | None = None
    missing: str | None = None


class _Guest:
    """A guest that is there and declared."""

    def __init__(self, declaration: Declaration, domid: int, seen: Seen) -> None:
        self._declaration = declaration
        self._domid = domid
        self._seen = seen
        self._mediator = self._find_mediator()

    def steps(self) -> list[Step]:
        """In the order in which they are told."""
        devices = {device.device: device for device in self._seen.domains[self._domid].devices}
        found = [self._make_mediator()]
        for number, wanted in sorted(self._declaration.wanted.items()):
            device = devices.get(number)
            found.append(self._absent(wanted) if device is None else self._present(device, wanted))
        for number, device in sorted(devices.items()):
            if number not in self._declaration.wanted and self._is_ours(device):
                found.append(self._step(Do.DETACH, "it is not declared any more", number))
        steps = [step for step in found if step is not None]
        return sorted(steps, key=lambda step: step.do in GOING)

    def _make_mediator(self) -> Step | None:
        make = self._mediator.make if self._declaration.wanted else None
        return self._step(Do.MAKE_MEDIATOR, make) if make else None

    def _absent(self, wanted: Wanted) -> Step:
        backend, no_backend = self._resolve(wanted.backend)
        if missing := self._mediator.missing or no_backend:
            return self._step(Do.WAIT, missing, wanted.device)
        return self._step(Do.ATTACH, "it is declared", wanted.device, wanted, backend)

    def _present(self, device: SeenDevice, wanted: Wanted) -> Step | None:
        if not self._is_ours(device):
            other = f"for {device.declared.name}" if device.declared else "by hand"
            text = f"a device of this number was attached {other}: detach it first, or declare another `device`"
            return self._step(Do.WAIT, text, device.device)
        backend, no_backend = self._resolve(wanted.backend)
        wrong = self._wrong(device, wanted, backend)
        missing = self._mediator.missing or no_backend
        if wrong and missing:
            return self._step(Do.DETACH, f"{wrong}; {missing}", device.device)
        if wrong:
            return self._step(Do.REPLACE, wrong, device.device, wanted, backend)
        if device.offered:
            return None
        return replace(self._step(Do.WAIT, device.pending, device.device), soon=not device.error)

    def _is_ours(self, device: SeenDevice) -> bool:
        return device.declared is not None and device.declared.name == self._declaration.name

    def _find_mediator(self) -> _Mediator:
        domid, missing = self._resolve(self._declaration.mediator)
        if self._declaration.mediator_config is None:
            return _Mediator(domid, missing=missing)
        if domid is None and any(one.name == self._declaration.mediator for one in self._seen.domains.values()):
            return _Mediator(missing=missing)  # several
        if (self._declaration.name, self._declaration.mediator) in self._seen.unfinished:
            return _Mediator(make="it was begun before, and not finished")
        return _Mediator(make=missing) if domid is None else self._made_before(domid)

    def _made_before(self, domid: int) -> _Mediator:
        """A mediator's domain serves one life of its guest, for which Xen has given it privilege."""
        mediator = self._seen.domains[domid]
        target = mediator.target
        if target == self._domid:
            return _Mediator(domid)
        name = with_name(domid, mediator.name)
        if target is None:  # it may be anybody's
            return _Mediator(
                missing=f"domain {name} has no target, so it is no mediator's domain of ours: destroy it first"
            )
        if target in self._seen.domains:
            other = with_name(target, self._seen.domains[target].name)
            return _Mediator(missing=f"domain {name} mediates for domain {other}, which is still there")
        return _Mediator(make=f"domain {name} was made for domain {target}, which is gone")

    def _resolve(self, domain: str) -> tuple[int | None, str | None]:
        """The id of a domain that is there; or what it is that is not."""
        if domain.isdecimal():
            there = int(domain) in self._seen.domains
            return (int(domain), None) if there else (None, f"there is no domain {domain}")
        found = [domid for domid, one in self._seen.domains.items() if one.name == domain]
        if len(found) == 1:
            return found[0], None
        return None, f"{'several domains are' if found else 'there is no domain'} called {domain}"

    def _wrong(self, device: SeenDevice, wanted: Wanted, backend: int | None) -> str | None:
        """Why a device cannot stay as it is. That a name says nothing is no reason while the domains are there."""
        for role, has, now in (
            ("mediator", device.mediator, self._mediator.domid),
            ("backend", device.backend, backend),
        ):
            if has not in self._seen.domains:
                return f"its {role}, domain {has}, is gone"
            if now not in (None, has):
                return f"its {role} is domain {has}, and is to be domain {now}"
        if device.declared is not None and device.declared.digest != wanted.digest:
            return "another disk is declared"
        if device.leaving:
            return "it is being detached"
        if not device.mediated or not device.backed:
            return f"its {'backend' if device.mediated else 'mediator'} has removed it"
        return device.refused

    def _step(
        self, do: Do, reason: str, device: int | None = None, wanted: Wanted | None = None, backend: int | None = None
    ) -> Step:
        mediator = self._mediator.domid if wanted else None
        return Step(do, self._declaration.name, self._domid, reason, device, wanted, mediator, backend)
