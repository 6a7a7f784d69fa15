# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontends that are being served: one data plane guest each, shared by that frontend's devices."""

from __future__ import annotations

from xen_shadowvq.engine import GRANTS_PER_FRAME, Guest, WindowPlan
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.log import get_logger

GUEST_OWN_FRAMES = 32
"""Grant table frames left to the guest's own kernel: 16,384 entries. Linux grows its use from the bottom up."""

_PAGES_PER_GIB = 1 << 18
_HOLE_ABOVE_GIB = 3
"""x86 guests with more memory than this have a hole below 4 GiB, so their frames go up to 1 GiB further."""

_SPECIAL_PAGES = 1024
"""Frames that a toolstack puts beyond the memory proper (start info, shared pages, video)."""


def gfn_limit(memory_kib: int) -> int:
    """The first frame number that a guest with so much memory cannot have."""
    pages = memory_kib // 4
    return pages + (_PAGES_PER_GIB if pages > _HOLE_ABOVE_GIB * _PAGES_PER_GIB else _SPECIAL_PAGES)


def plan_window(kind: str, frames_max: int, limit: int, domid: int) -> WindowPlan:
    """
    Chooses the part of a guest's grant table that the mediator writes.

    Args:
        kind: `direct` (an entry for each frame), `dynamic` (the upper half), or `auto` (direct where it fits).
        frames_max: the most frames that the table may have (the domain's max_grant_frames).
        limit: see `gfn_limit`.
    """
    needed = -(-limit // GRANTS_PER_FRAME)
    if kind != "dynamic" and needed + GUEST_OWN_FRAMES <= frames_max:
        return WindowPlan(first_frame=frames_max - needed, frames=needed, direct=True)
    if kind == "direct":
        raise ConfigError(
            f"domain {domid}: a direct grant window needs max_grant_frames >= {needed + GUEST_OWN_FRAMES}, "
            f"the domain has {frames_max}; raise it in the domain's configuration, or choose window: dynamic"
        )
    if frames_max < GUEST_OWN_FRAMES:
        raise ConfigError(f"domain {domid}: max_grant_frames is {frames_max}, expected at least {GUEST_OWN_FRAMES}")
    half = frames_max // 2
    return WindowPlan(first_frame=frames_max - half, frames=half, direct=False)


class GuestTable:
    """Opens a guest with its first device and closes it with its last."""

    def __init__(self, hypervisor: Hypervisor, memory_gib_max: int) -> None:
        self._hypervisor = hypervisor
        self._memory_kib_max = memory_gib_max << 20
        self._guests: dict[int, tuple[Guest, int]] = {}
        self._log = get_logger()

    def plan(self, domid: int, memory_kib: int, window_kind: str) -> WindowPlan:
        """The window that the guest has, or would get. ConfigError: its memory or grant table allows none."""
        if domid in self._guests:
            return self._guests[domid][0].window
        if memory_kib > self._memory_kib_max:
            raise ConfigError(
                f"domain {domid} has {memory_kib} KiB of memory, expected at most {self._memory_kib_max} "
                "(limits.memory_gib_max)"
            )
        frames_max = self._hypervisor.grant_table_frames(domid)
        return plan_window(window_kind, frames_max, gfn_limit(memory_kib), domid)

    def acquire(self, domid: int, memory_kib: int, window: WindowPlan) -> Guest:
        """
        The guest of a frontend, opened with `window` if this is its first device. Grants that a mediator left there
        when it died are taken back, with a warning.
        """
        if domid in self._guests:
            guest, users = self._guests[domid]
        else:
            guest, users = Guest(self._hypervisor, domid, gfn_limit(memory_kib), window), 0
            if guest.stale_revoked or guest.stale_mapped:
                self._log.warning(
                    "stale_grants_revoked", domid=domid, revoked=guest.stale_revoked, mapped=guest.stale_mapped
                )
        self._guests[domid] = (guest, users + 1)
        return guest

    def release(self, guest: Guest) -> None:
        """One device of the guest is gone."""
        _, users = self._guests[guest.domid]
        if users > 1:
            self._guests[guest.domid] = (guest, users - 1)
        else:
            del self._guests[guest.domid]
            guest.close()
