# SPDX-License-Identifier: GPL-2.0-or-later
"""Gives guests the disks that are declared for them: finds out what exists, and carries out the plan's steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from xen_shadowvq import devices, toolstack
from xen_shadowvq.apply_plan import (
    COMING,
    GOING,
    Declarations,
    Do,
    Seen,
    SeenDevice,
    SeenDomain,
    Step,
    guest_domid,
    plan_guest,
)
from xen_shadowvq.dom0 import Dom0, Record, numbers
from xen_shadowvq.errors import ConfigError, PeerProtocolError, ShadowVQError
from xen_shadowvq.lockfile import locked
from xen_shadowvq.mediator_domain import DomainMaker
from xenstore_schema import State, nodes

SETTLE_POLL_S = 0.05
_UNFINISHED = "mediator-of-"  # how the names of marks in dom0's run directory begin

Result = Literal[
    "attached", "detached", "attached anew", "mediator made", "waits", "as declared", "not running", "left alone"
]
_DONE: dict[Do, Result] = {
    Do.MAKE_MEDIATOR: "mediator made",
    Do.ATTACH: "attached",
    Do.DETACH: "detached",
    Do.REPLACE: "attached anew",
    Do.WAIT: "waits",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a step; or, for a guest without steps, where it stands. With --dry-run: what would be done."""

    guest: str
    domid: int | None
    device: int | None
    result: Result
    reason: str

    @classmethod
    def of(cls, step: Step) -> Outcome:
        """The outcome of a step that was taken, or that --dry-run would take."""
        return cls(step.guest, step.domid, step.device, _DONE[step.do], step.reason)

    @classmethod
    def instead_of(cls, step: Step, reason: str) -> Outcome:
        """The outcome of a step that was not taken, and why."""
        return cls(step.guest, step.domid, step.device, "waits", reason)


# ---- what there is ---------------------------------------------------------------------------------------------------


def look(dom0: Dom0) -> Seen:
    """All domains and the devices that dom0 has records of."""
    domids = numbers(dom0.store, "/local/domain")
    found = {domid: _look_at(dom0, domid) for domid in domids if domid == 0 or dom0.store.is_domain_introduced(domid)}
    marks = dom0.run_directory().glob(f"{_UNFINISHED}*")
    return Seen(found, frozenset((mark.name.removeprefix(_UNFINISHED), mark.read_text()) for mark in marks))


def _look_at(dom0: Dom0, domid: int) -> SeenDomain:
    home, read = f"/local/domain/{domid}", dom0.store.read
    target = read(f"{home}/target")
    return SeenDomain(
        dom0.name_of(domid),
        read(f"{home}/memory/static-max") is not None,
        int(target) if target is not None and target.isdecimal() else None,
        tuple(_look_at_device(dom0, record) for record in dom0.records(domid)),
    )


def _look_at_device(dom0: Dom0, record: Record) -> SeenDevice:
    known = record.device, record.mediator, record.backend, record.declared
    if not dom0.is_mediated(record):
        return SeenDevice(*known, mediated=False)
    vb, path, read = nodes.VirtioBack, record.mediator_path, dom0.store.read
    try:
        offered = vb.VERSION.read(read, path) is not None
        online = vb.ONLINE.read(read, path)
    except PeerProtocolError as error:  # it is the mediator's own directory, so only this device suffers
        return SeenDevice(*known, refused=str(error))
    if record.handle is None:
        return SeenDevice(*known, mediated=False)
    back = nodes.svq_back_path(backend=record.backend, mediator=record.mediator, handle=record.handle)
    backed, leaving = read(f"{back}/state") is not None, not online
    if offered:
        return SeenDevice(*known, backed=backed, leaving=leaving)
    refused, pending, wrong = _why_not_offered(dom0, record)
    return SeenDevice(*known, True, backed, leaving, False, refused, pending, wrong)


def _why_not_offered(dom0: Dom0, record: Record) -> tuple[str | None, str, bool]:
    """Returns why the mediator will never offer it, where it stands, and whether something is wrong."""
    try:
        found = devices.find(dom0, record.frontend, record.device)
    except ConfigError as error:
        return None, str(error), True
    if found.error:  # a device that closes before it was ever offered may wait for a guest's driver
        over = found.state in {State.Closing.name, State.Closed.name}
        return found.error if over else None, found.error, True
    stands = f"(mediator {found.state}, backend {found.backend_state})"
    return None, f"no service has taken it up yet {stands}; are both services running?", False


# ---- the steps -------------------------------------------------------------------------------------------------------


def apply_guest(dom0: Dom0, name: str, declared: Declarations, maker: DomainMaker, timeout_s: float) -> list[Outcome]:
    """
    Looks, and takes the steps for one guest. A step that cannot be taken becomes an outcome, and stops no other step.
    `timeout_s` limits each detach, and the wait for another command that works on the same guest; ConfigError if that
    command does not finish.
    """
    lock = dom0.run_directory() / f"apply-{name}.lock"
    with locked(lock, deadline=time.monotonic() + timeout_s):
        steps = plan_guest(name, declared, look(dom0))
        outcomes: list[Outcome] = []
        if steps and steps[0].do is Do.MAKE_MEDIATOR:
            outcomes.append(_try(steps[0], partial(_make_mediator, dom0, steps[0], declared, maker)))
            steps = _without_mediator(steps) if outcomes[0].result == "waits" else _after(steps[0], declared, dom0)
        # Detaching comes first: another of these steps may attach the same image.
        done = {step: _try(step, partial(_detach, dom0, step, timeout_s)) for step in steps if step.do in GOING}
        coming = [step for step in steps if step.do in COMING and (step not in done or done[step].result != "waits")]
        done |= {step: _try(step, partial(_attach, dom0, step, declared)) for step in coming}
        return outcomes + [done[step] for step in steps if step in done]


def _after(made: Step, declared: Declarations, dom0: Dom0) -> list[Step]:
    """The steps that are left once the mediator's domain exists. A round never makes that domain twice."""
    return [step for step in plan_guest(made.guest, declared, look(dom0)) if step.do is not Do.MAKE_MEDIATOR]


def _without_mediator(steps: list[Step]) -> list[Step]:
    """The steps that are left if that domain could not be made: what is of no use any more is detached all the same."""
    return [replace(step, do=Do.DETACH) for step in steps if step.do in GOING]


def _try(step: Step, work: Callable[[], None]) -> Outcome:
    try:
        work()
    except ShadowVQError as error:
        return Outcome.instead_of(step, str(error))
    return Outcome.of(step)


def _make_mediator(dom0: Dom0, step: Step, declared: Declarations, maker: DomainMaker) -> None:
    """The mark stays while something half made may be left, even if this process ends: then that is ours to destroy."""
    declaration = declared[step.guest]
    if declaration is None or declaration.mediator_config is None or step.domid is None:
        raise ConfigError(f"{step.guest}: no mediator_config is declared")
    mark = dom0.run_directory() / f"{_UNFINISHED}{step.guest}"
    for domid, domain in look(dom0).domains.items():
        if domain.name == declaration.mediator:
            maker.destroy(domid)
    mark.write_text(declaration.mediator)  # names the domain: next time the declaration may name another
    try:
        maker.make(declaration.mediator, Path(declaration.mediator_config), step.domid)
    except ConfigError:
        if all(domain.name != declaration.mediator for domain in look(dom0).domains.values()):
            mark.unlink(missing_ok=True)
        raise
    mark.unlink(missing_ok=True)


def _attach(dom0: Dom0, step: Step, declared: Declarations) -> None:
    declaration = declared[step.guest]
    if declaration is None or step.wanted is None or step.domid is None:
        raise ConfigError(f"{step.guest}: nothing is declared")
    if step.mediator is None or step.backend is None:
        raise ConfigError(f"device {step.device} of {step.guest}: the domain of its mediator or backend is gone")
    toolstack.attach(
        dom0, frontend=step.domid, mediator=step.mediator, backend=step.backend, disk=step.wanted.disk,
        device=step.device, declared=declaration.stands_for(step.wanted.device),
    )  # fmt: skip


def _detach(dom0: Dom0, step: Step, timeout_s: float) -> None:
    """Detaches a device only if dom0's record says now that a declaration of this name has attached it."""
    if step.domid is None or step.device is None:
        raise ConfigError(f"{step.guest}: the step names no device")
    record = dom0.record(step.domid, step.device)
    if record is not None and record.declared is not None and record.declared.name == step.guest:
        toolstack.abandon(dom0, step.domid, step.device, timeout_s)


# ---- how it stands ---------------------------------------------------------------------------------------------------


def settle(dom0: Dom0, name: str, declared: Declarations, timeout_s: float) -> list[Step]:
    """
    Waits while any step may soon settle by itself, at most `timeout_s`; returns the steps that the guest has left.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        steps = plan_guest(name, declared, look(dom0))
        if not any(step.soon for step in steps) or time.monotonic() >= deadline:
            return steps
        time.sleep(SETTLE_POLL_S)


def summary(
    name: str, declared: Declarations, seen: Seen, outcomes: list[Outcome], left: list[Step]
) -> Iterator[Outcome]:
    """
    Yields all there is to report on a guest: what was done, what failed, what waits, or that there was nothing to do.
    """
    done = [one for one in outcomes if one.result != "waits"]
    failed = {one.device: one for one in outcomes if one.result == "waits"}
    yield from done
    yield from failed.values()
    no_mediator = None in failed  # this explains whatever could not be attached
    waits = [step for step in left if step.device not in failed and not (no_mediator and step.do is not Do.WAIT)]
    yield from (Outcome.instead_of(step, step.reason) for step in waits)
    if not outcomes and not waits:
        domid = guest_domid(name, seen)
        if name in declared and declared[name] is None:
            yield Outcome(name, domid, None, "left alone", "its file is invalid")
        elif domid is None:
            yield Outcome(name, None, None, "not running", "its disks are attached when it starts")
        else:
            yield Outcome(name, domid, None, "as declared", "")
