# SPDX-License-Identifier: GPL-2.0-or-later
"""
What to do so that guests have their declared disks: computed from what was seen, without doing or asking anything.

Everything that is seen was written by dom0, or stands where no guest can write. A guest that had a say in it could have
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
    """A device of a guest, according to dom0's record and to the mediator's and the backend's halves."""

    device: int
    mediator: int
    backend: int
    declared: Declared | None = None
    mediated: bool = True
    """The mediator's half of leg 1 exists."""
    backed: bool = True
    """The backend's half of leg 2 exists."""
    leaving: bool = False
    """Somebody has asked the mediator to close it."""
    offered: bool = True
    """The mediator has offered it to the guest at least once."""
    refused: str | None = None
    """Why the mediator will not offer it as it is."""
    pending: str = ""
    """Where it stands, or what is wrong, while it is not offered."""
    error: bool = False
    """Something is wrong with it: if it is not offered yet, waiting a moment will not help."""


@dataclass(frozen=True)
class SeenDomain:
    """A domain that xenstored knows."""

    name: str | None
    ready: bool = True
    """The toolstack has got far enough with making it."""
    target: int | None = None
    """The one domain that it may mediate for, if XenStore names one."""
    devices: tuple[SeenDevice, ...] = ()


@dataclass(frozen=True)
class Seen:
    """All domains by id, and the mediators' domains that were begun but not finished, as (guest, domain's name)."""

    domains: Mapping[int, SeenDomain]
    unfinished: frozenset[tuple[str, str]] = field(default_factory=frozenset)


class Do(enum.Enum):
    """What a step does."""

    MAKE_MEDIATOR = "make the mediator's domain"
    ATTACH = "attach"
    DETACH = "detach"
    REPLACE = "detach, and attach again"
    WAIT = "wait"


GOING = frozenset({Do.DETACH, Do.REPLACE})
COMING = frozenset({Do.ATTACH, Do.REPLACE})


@dataclass(frozen=True)
class Step:
    """
    One thing to do for one guest. With ATTACH and REPLACE, `mediator` is None if its domain is made first. With WAIT,
    `soon` says that it may be over in a moment, if all is well.
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
    """All guests for which there may be something to do: those that are declared, and those with declared devices."""
    attached_for = {
        device.declared.name for domain in seen.domains.values() for device in domain.devices if device.declared
    }
    return sorted(set(declared) | attached_for)


def plan(declared: Declarations, seen: Seen) -> list[Step]:
    """The steps for all guests. No guest's steps depend on another's."""
    return [step for name in names(declared, seen) for step in plan_guest(name, declared, seen)]


def guest_domid(name: str, seen: Seen) -> int | None:
    """The domain of that name; None if there is none, or if there are several."""
    found = _named(name, seen)
    return found[0] if len(found) == 1 else None


def plan_guest(name: str, declared: Declarations, seen: Seen) -> list[Step]:
    """
    The steps for one guest, in the order to take them; none if all is as declared, or if the guest does not exist. A
    name that is not in `declared` has no file; one with None has an invalid file, and keeps what it has.
    """
    if name not in declared:
        return [
            Step(Do.DETACH, name, domid, "it is no longer declared", device.device)
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
        return [Step(Do.WAIT, name, found[0], "the domain is still being created", soon=True)]
    return _Guest(declaration, found[0], seen).steps()


def _named(name: str, seen: Seen) -> list[int]:
    return sorted(domid for domid, domain in seen.domains.items() if domain.name == name and domid != NEVER_A_GUEST)


@dataclass(frozen=True)
class _Mediator:
    """Its domain id; or, if it has none, why to make its domain, or what has to come first."""

    domid: int | None = None
    make: str | None = None
    missing: str | None = None


class _Guest:
    """A guest that exists and is declared."""

    def __init__(self, declaration: Declaration, domid: int, seen: Seen) -> None:
        self._declaration = declaration
        self._domid = domid
        self._seen = seen
        self._mediator = self._find_mediator()

    def steps(self) -> list[Step]:
        """The steps, in the order in which they are reported."""
        devices = {device.device: device for device in self._seen.domains[self._domid].devices}
        found = [self._make_mediator()]
        for number, wanted in sorted(self._declaration.wanted.items()):
            device = devices.get(number)
            found.append(self._absent(wanted) if device is None else self._present(device, wanted))
        for number, device in sorted(devices.items()):
            if number not in self._declaration.wanted and self._is_ours(device):
                found.append(self._step(Do.DETACH, "it is no longer declared", number))
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
            text = f"its number belongs to a device attached {other}: detach that first, or declare another `device`"
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
            return _Mediator(missing=missing)  # several domains have that name
        if (self._declaration.name, self._declaration.mediator) in self._seen.unfinished:
            return _Mediator(make="an earlier attempt did not finish")
        return _Mediator(make=missing) if domid is None else self._made_before(domid)

    def _made_before(self, domid: int) -> _Mediator:
        """Whether that domain will do: Xen has given it privilege over one life of one guest."""
        mediator = self._seen.domains[domid]
        target = mediator.target
        if target == self._domid:
            return _Mediator(domid)
        name = with_name(domid, mediator.name)
        if target is None:  # it may be anybody's
            return _Mediator(
                missing=f"domain {name} has no target, so no mediator of ours runs there: destroy it first"
            )
        if target in self._seen.domains:
            other = with_name(target, self._seen.domains[target].name)
            return _Mediator(missing=f"domain {name} mediates for domain {other}, which still exists")
        return _Mediator(make=f"domain {name} was made for domain {target}, which is gone")

    def _resolve(self, domain: str) -> tuple[int | None, str | None]:
        """The id of a domain that exists, or else what is wrong with that name or id."""
        if domain.isdecimal():
            there = int(domain) in self._seen.domains
            return (int(domain), None) if there else (None, f"there is no domain {domain}")
        found = [domid for domid, one in self._seen.domains.items() if one.name == domain]
        if len(found) == 1:
            return found[0], None
        return None, f"{'several domains are' if found else 'there is no domain'} called {domain}"

    def _wrong(self, device: SeenDevice, wanted: Wanted, backend: int | None) -> str | None:
        """Why a device cannot stay as it is. A name that resolves to nothing is no reason while the domains exist."""
        for role, has, now in (
            ("mediator", device.mediator, self._mediator.domid),
            ("backend", device.backend, backend),
        ):
            if has not in self._seen.domains:
                return f"its {role}, domain {has}, is gone"
            if now not in (None, has):
                return f"its {role} is domain {has}, but domain {now} is declared"
        if device.declared is not None and device.declared.digest != wanted.digest:
            return "its declaration has changed"
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
