# SPDX-License-Identifier: GPL-2.0-or-later
"""The service that attaches declared disks whenever their guests run: rounds of `apply`, one thread for each guest."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from xen_shadowvq import apply_plan
from xen_shadowvq.apply import Outcome, apply_guest, look
from xen_shadowvq.apply_plan import Do, Step
from xen_shadowvq.dead_guests import DeadGuests
from xen_shadowvq.declared_files import DeclaredFiles
from xen_shadowvq.dom0 import Dom0
from xen_shadowvq.errors import ShadowVQError, XenStoreError
from xen_shadowvq.log import RateLimited, get_logger
from xen_shadowvq.mediator_domain import DomainMaker
from xen_shadowvq.pace import Rounds, earliest
from xen_shadowvq.service_manager import notify_systemd

FILES_S = 2.0  # how often the files are checked
DEVICES_S = 10.0  # how often all domains and devices are checked without any news
SOON_S = 1.0  # the same after news, for what a toolstack or a service writes late
DETACH_S = 30.0
BURST, ROUNDS_PER_S = 10, 0.5  # for one guest: one that reboots without end must not use up dom0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
_EVENTS_A_TURN = 256
_TOKEN = "domains"  # noqa: S105 - a watch token
_WATCHED = ("@introduceDomain", "@releaseDomain")


@dataclass
class _Guest:
    """What the loop remembers of a guest. `told` has those steps of the last plan that were logged."""

    rounds: Rounds = field(default_factory=lambda: Rounds(BURST, ROUNDS_PER_S, FIRST_PAUSE_S, LONGEST_PAUSE_S))
    thread: threading.Thread | None = None
    ended: bool = False
    """Its thread has done all it had to do, with these outcomes; None: it met a defect of ours."""
    outcomes: list[Outcome] | None = None
    left: list[Step] = field(default_factory=list)
    told: set[Step] = field(default_factory=set)


class GuestService:
    """
    Each guest has a thread of its own while there is something to do for it, so a detach that has to wait because a
    backend keeps pages holds up no other guest. `dom0.alone` keeps the threads apart where necessary.
    """

    def __init__(self, dom0: Dom0, directory: Path, maker: DomainMaker) -> None:
        self._dom0 = dom0
        self._maker = maker
        self._files = DeclaredFiles(directory)
        self._guests: dict[str, _Guest] = {}
        self._problems: tuple[str, ...] = ()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = self._reread = False
        self._files_due = self._devices_due = 0.0
        self._troubles = RateLimited(interval_s=10.0)
        self._log = get_logger()
        self._dead = DeadGuests(dom0, self._log)

    def stop(self) -> None:
        """Ends `run`. May be called from a signal handler or another thread."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def reread(self) -> None:
        """Has the files read again, as they are now. May be called from a signal handler or another thread."""
        self._reread = True
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Serves until `stop`. Work under way is then cut short; the next round continues from where it stands."""
        ready = watching = False
        while not self._stopping:
            try:
                if watching:
                    self._turn(news=self._wait())
                else:
                    self._watch()
                    watching = True
            except ShadowVQError as error:
                watching = False
                self._troubles.warning(self._log, "look_failed", reason=str(error))
                time.sleep(SOON_S)
            if watching and not ready:
                ready = True
                notify_systemd("READY=1")
                self._log.info("service_ready", guests=len(self._files.guests))
        notify_systemd("STOPPING=1")
        self._log.info("service_stopped")
        if any(guest.thread is not None for guest in self._guests.values()):
            _end_at_once()

    def _watch(self) -> None:
        """Sets the watches and looks at everything, since earlier changes are unknown."""
        store = self._dom0.store
        if not store.alive or store.silent:
            store.reconnect()
        for path in _WATCHED:
            try:
                store.watch(path, _TOKEN)
            except XenStoreError as error:
                if error.errno != errno.EEXIST:
                    raise
        self._turn(news=True)

    # ---- one turn ----------------------------------------------------------------------------------------------------

    def _wait(self) -> bool:
        """Waits until there is something to do; returns True for news of domains, or of a thread that has ended."""
        now = time.monotonic()
        waiting = [guest.rounds.due for guest in self._guests.values() if guest.thread is None]
        due = earliest([self._files_due, self._devices_due, *waiting])
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(self._dom0.store.fileno(), select.POLLIN)
        ready = poller.poll(max(0.0, (due or now) - now) * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        for _ in range(_EVENTS_A_TURN):
            if self._dom0.store.next_event(timeout_ms=0) is None:
                break
        return bool(ready)

    def _turn(self, *, news: bool) -> None:
        now = time.monotonic()
        if self._reread or now >= self._files_due:
            at_once, self._reread = self._reread, False
            self._files_due = now + FILES_S
            if self._files.look(at_once=at_once):
                news = True
                self._log.info("declarations_read", guests=len(self._files.guests))
            self._say_problems()
        for name, guest in self._guests.items():
            self._hear_of(name, guest)
        waiting = earliest(guest.rounds.due for guest in self._guests.values() if guest.thread is None)
        if not (news or now >= self._devices_due or (waiting is not None and now >= waiting)):
            return
        self._devices_due = now + (SOON_S if news else DEVICES_S)
        if self._files.known:  # else every declaration would seem to be gone
            self._begin_rounds()

    def _say_problems(self) -> None:
        for problem in self._files.problems:
            if problem not in self._problems:
                self._log.error("declaration_refused", reason=problem)
        self._problems = self._files.problems

    def _hear_of(self, name: str, guest: _Guest) -> None:
        """Takes in the outcomes of a round that has ended."""
        if guest.thread is None or not guest.ended:
            return
        guest.thread.join()
        guest.thread, guest.ended = None, False
        outcomes, guest.outcomes = guest.outcomes, None
        for one in outcomes or ():
            facts = {"guest": name, "domid": one.domid, "device": one.device, "reason": one.reason}
            if one.result != "waits":
                self._log.info("guest_changed", done=one.result, **facts)
            else:
                self._troubles.warning(self._log, "guest_waits", key=(name, one.device, one.reason), **facts)
        guest.rounds.pause.fail()  # until all is as declared: a device that is refused each time was attached each time

    def _begin_rounds(self) -> None:
        """Begins a round for each guest that needs one; the round itself finds out which steps to take."""
        declared = dict(self._files.guests)
        seen = look(self._dom0)
        self._dead.look(seen)
        names = apply_plan.names(declared, seen)
        for name in [name for name, guest in self._guests.items() if name not in names and guest.thread is None]:
            del self._guests[name]
        for name in names:
            guest = self._guests.setdefault(name, _Guest())
            if guest.thread is not None:
                continue
            steps = apply_plan.plan_guest(name, declared, seen)
            self._say_what_waits(name, guest, steps)
            if all(step.do is Do.WAIT for step in steps):
                guest.rounds.forget()
            elif guest.rounds.take():
                guest.thread = threading.Thread(
                    target=self._round, args=(name, guest, declared), name=name, daemon=True
                )
                guest.thread.start()

    def _say_what_waits(self, name: str, guest: _Guest, steps: list[Step]) -> None:
        """Logs what waits, once; what may soon be over, only if it is not."""
        guest.told &= set(steps)
        for step in steps:
            if step.do is Do.WAIT and step not in guest.told and (not step.soon or step in guest.left):
                guest.told.add(step)
                self._log.warning("guest_waits", guest=name, domid=step.domid, device=step.device, reason=step.reason)
        if not steps:
            guest.rounds.pause.reset()
            if guest.left:
                self._log.info("guest_is_as_declared", guest=name)
        guest.left = steps

    def _round(self, name: str, guest: _Guest, declared: apply_plan.Declarations) -> None:
        """Runs on the guest's thread. The loop looks at `outcomes` once that has ended."""
        try:
            guest.outcomes = apply_guest(self._dom0, name, declared, self._maker, DETACH_S)
        except ShadowVQError as error:
            guest.outcomes = [Outcome(name, None, None, "waits", str(error))]
        except Exception:  # a defect of ours must not cost the other guests their disks
            self._log.exception("round_defect", guest=name)
        guest.ended = True
        os.eventfd_write(self._wake, 1)


def _end_at_once() -> NoReturn:
    """Threads that wait for a backend cannot be ended otherwise. Whatever they leave, the next round deals with."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)
