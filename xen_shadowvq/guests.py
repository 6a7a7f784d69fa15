# SPDX-License-Identifier: GPL-2.0-or-later
"""The frontends being served: one data plane guest each, shared by that frontend's devices."""

from __future__ import annotations

from dataclasses import dataclass

from xen_shadowvq.engine import Guest, WindowPlan
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.hypervisor import Hypervisor, grants_per_frame

GUEST_OWN_FRAMES = 32
"""Grant table frames left to the guest's own kernel: 16,384 entries. Linux grows its use from the bottom up."""

_PAGES_PER_GIB = 1 << 18
_HOLE_ABOVE_GIB = 3
"""x86 guests with more memory than this have a hole below 4 GiB, so their frames go up to 1 GiB further."""

_SPECIAL_PAGES = 1024
"""Frames that a toolstack puts beyond the memory proper (start info, shared pages, video)."""


def gfn_limit(memory_kib: int) -> int:
    """The first frame number that a guest with that much memory cannot have."""
    pages = memory_kib // 4
    return pages + (_PAGES_PER_GIB if pages > _HOLE_ABOVE_GIB * _PAGES_PER_GIB else _SPECIAL_PAGES)


@dataclass(frozen=True)
class WindowWish:
    """How many references of a guest's grant table its devices want, and for which kind of window."""

    count: int
    direct: bool
    frames_max: int
    """The most frames that the table may have (the domain's max_grant_frames)."""

    @property
    def refs_max(self) -> int:
        """All references of that table."""
        return self.frames_max * grants_per_frame()

    def unreserved(self) -> WindowPlan:
        """
        The upper part of the table, for a guest that reserves nothing; its own use, which grows from below, is watched.
        """
        frames = -(-self.count // grants_per_frame())
        return WindowPlan(
            (self.frames_max - frames) * grants_per_frame(), self.count, self.direct, guarded=bool(frames)
        )

    def reserved(self, first: int, count: int) -> WindowPlan:
        """
        What the guest has reserved, as far as that goes: with fewer references than wished for, the window is dynamic.
        """
        if self.direct and count >= self.count:
            return WindowPlan(first, self.count, direct=True, guarded=False)
        return WindowPlan(first, count, direct=False, guarded=False)


NO_WINDOW = WindowWish(0, direct=False, frames_max=0)
"""For devices that copy everything."""


def wish_window(kind: str, frames_max: int, limit: int, domid: int) -> WindowWish:
    """
    Chooses how much of a guest's grant table its devices are to have.

    Args:
        kind: `direct` (an entry for each frame), `dynamic` (half of the table), or `auto` (direct where it fits).
        frames_max: see `WindowWish`.
        limit: see `gfn_limit`.
    """
    needed = -(-limit // grants_per_frame())
    if kind != "dynamic" and needed + GUEST_OWN_FRAMES <= frames_max:
        return WindowWish(limit, direct=True, frames_max=frames_max)
    if kind == "direct":
        raise ConfigError(
            f"domain {domid}: a direct grant window needs max_grant_frames >= {needed + GUEST_OWN_FRAMES}, "
            f"the domain has {frames_max}; raise it in the domain's configuration, or choose window: dynamic"
        )
    if frames_max < GUEST_OWN_FRAMES:
        raise ConfigError(f"domain {domid}: max_grant_frames is {frames_max}, expected at least {GUEST_OWN_FRAMES}")
    return WindowWish(frames_max // 2 * grants_per_frame(), direct=False, frames_max=frames_max)


class GuestTable:
    """Opens a guest with its first device and closes it with its last."""

    def __init__(self, hypervisor: Hypervisor, memory_gib_max: int) -> None:
        self._hypervisor = hypervisor
        self._memory_kib_max = memory_gib_max << 20
        self._guests: dict[int, tuple[Guest, int]] = {}

    def wish(self, domid: int, memory_kib: int, window_kind: str) -> WindowWish:
        """The window that the guest should have. ConfigError: its memory or grant table allows none."""
        if memory_kib > self._memory_kib_max:
            raise ConfigError(
                f"domain {domid} has {memory_kib} KiB of memory, expected at most {self._memory_kib_max} "
                "(limits.memory_gib_max)"
            )
        frames_max = self._hypervisor.grant_table_frames(domid)
        return wish_window(window_kind, frames_max, gfn_limit(memory_kib), domid)

    def acquire(self, domid: int, memory_kib: int, *, fixed: bool) -> Guest:
        """
        The guest of a frontend, opened if this is its first device. `fixed`: its memory does not change (see `Guest`);
        the first device decides for all of that guest's devices.
        """
        guest, users = self._guests.get(domid) or (
            Guest(self._hypervisor, domid, gfn_limit(memory_kib), fixed=fixed),
            0,
        )
        self._guests[domid] = (guest, users + 1)
        return guest

    def release(self, guest: Guest) -> None:
        """One device of the guest is gone; the last one closes the guest."""
        _, users = self._guests[guest.domid]
        if users > 1:
            self._guests[guest.domid] = (guest, users - 1)
        else:
            del self._guests[guest.domid]
            guest.close()
