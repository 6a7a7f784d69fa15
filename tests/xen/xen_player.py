# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is not to be trusted, played inside a domain: a frontend with a user-space driver, and an attacking backend."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from pathlib import Path
from typing import Any

from dom0_backend.keep import Keeper
from dom0_backend.probe import Prober
from domU_frontend import blk
from domU_frontend.blk import PAGE, Request
from domU_frontend.hostile.attacks import CASES, HostileDriver
from domU_frontend.hostile.rings import DESC_F_WRITE
from domU_frontend.process import FrontendProcess
from xen_shadowvq.domain import own_domid
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.xenstore import XenStore

CLOSE_S = 60.0
HELD_MS = 600_000  # requests are held while the attacker probes
# Linux include/uapi/xen/privcmd.h: struct privcmd_hypercall { u64 op; u64 arg[5]; }
IOCTL_PRIVCMD_HYPERCALL = ord("P") << 8 | 48 << 16
HYPERCALL = struct.Struct("=6Q")
# Xen public/xen.h, public/memory.h, public/grant_table.h
MEMORY_OP, XEN_VERSION, GRANT_TABLE_OP = 12, 17, 20
DECREASE_RESERVATION, POPULATE_PHYSMAP = 1, 6
SET_VERSION = 8
DOMID_SELF = 0x7FF0
RESERVATION = struct.Struct("=QQIIHxxxxxx")  # struct xen_memory_reservation
HEADER_PAGE, STATUS_PAGE, VICTIM_PAGE = 80, 81, 82  # of the data pages


def hypercall(*words: int) -> int:
    """A hypercall with up to five arguments, through this domain's own kernel: its answer, or -errno."""
    privcmd = os.open("/dev/xen/privcmd", os.O_RDWR)
    try:
        argument = bytearray(HYPERCALL.pack(*words, *(0,) * (6 - len(words))))
        answer: int = fcntl.ioctl(privcmd, IOCTL_PRIVCMD_HYPERCALL, argument, True)
        return answer
    except OSError as error:
        return -(error.errno or 1)
    finally:
        os.close(privcmd)


class Player(FrontendProcess):
    """The demo's frontend, on real Xen, and the attacks of a hostile one. Its kernel lets it make hypercalls."""

    def __init__(self, device: int, memory_mib: int) -> None:
        # Locked pages must stay where they are: their frame numbers are in the rings.
        Path("/proc/sys/vm/compact_unevictable_allowed").write_text("0")
        super().__init__(None, device, memory_mib, 1, HELD_MS)

    def attack(self, case: str, memory_end: int) -> dict[str, Any]:
        """One of the embedded tests' malformed chains; returns once the mediator has closed the device."""
        villain = HostileDriver(self._frontend, memory_end)
        CASES[case][0](villain)
        self._frontend.wait_closed(CLOSE_S)
        return {"size": villain.ring.size}

    def reconnect(self) -> dict[str, Any]:
        """A new round, after the device was closed."""
        self._frontend.reconnect(CLOSE_S)
        return {}

    def write_and_compare(self, megabytes: int = 1) -> bool:
        """Honest work: writes, flushes, reads back."""
        found = self.write_region(0, megabytes << 20)
        return bool(found["written"] == found["read_back"])

    def read_from_frame(self, gfn: int) -> dict[str, Any]:
        """
        Gives the device one page at `gfn` to write to disk. Readable for the device, so it can do no harm to us.
        Returns `status`, or `closed`: the mediator took it for a lie and closed the device. It is then connected again.
        """
        villain = HostileDriver(self._frontend, 0)
        header, status = self._gpa(HEADER_PAGE * PAGE), self._gpa(STATUS_PAGE * PAGE)
        self._driver.memory(header, 16)[:] = struct.pack("<IIQ", blk.OUT, 0, 64)
        self._driver.memory(status, 1)[:] = b"\xff"
        ring = villain.ring
        ring.set_chain(0, [(header, 16, 0), (gfn * PAGE, PAGE, 0), (status, 1, DESC_F_WRITE)])
        before = ring.used_idx
        villain.offer(0)
        closed = self._until_used_or_closed(villain, before)
        if not closed:  # our own driver knows nothing of that request: begin anew
            self._frontend.disconnect(CLOSE_S)
        self._frontend.reconnect(CLOSE_S)
        return {"closed": closed, "status": self._driver.memory(status, 1)[0]}

    def balloon_out_and_use(self) -> dict[str, Any]:
        """
        Uses a page honestly, so that the mediator knows it as RAM, gives it back to Xen, and offers it again. Puts
        another page in its place in the end: our kernel would die of the hole.
        """
        gpa = self._gpa(VICTIM_PAGE * PAGE)
        gfn = gpa // PAGE
        first = self._one(Request(blk.OUT, 64, gpa, PAGE))
        self._reservation(DECREASE_RESERVATION, gfn)
        try:
            found = self.read_from_frame(gfn)
        finally:
            self._reservation(POPULATE_PHYSMAP, gfn)
        return {**found, "first_status": first.status}

    def set_grant_table_version(self, version: int) -> int:
        """Asks Xen for another grant table version; 0, or -errno."""
        wanted = ctypes.c_uint32(version)
        return hypercall(GRANT_TABLE_OP, SET_VERSION, ctypes.addressof(wanted), 1)

    def _until_used_or_closed(self, villain: HostileDriver, before: int) -> bool:
        for _ in range(600):
            self._frontend.store.next_event(50)
            self._frontend.side.look()
            if self._frontend.side.phase.name == "CLOSED":
                self._frontend.wait_closed(CLOSE_S)
                return True
            if villain.ring.used_idx != before:
                return False
        raise TimeoutError("the request was neither completed nor was the device closed")

    def _reservation(self, operation: int, gfn: int) -> None:
        frame = ctypes.c_uint64(gfn)
        argument = ctypes.create_string_buffer(
            RESERVATION.pack(ctypes.addressof(frame), 1, 0, 0, DOMID_SELF), RESERVATION.size
        )
        done = hypercall(MEMORY_OP, operation, ctypes.addressof(argument))
        if done != 1:
            raise OSError(f"memory operation {operation} on frame {gfn:#x}: {done}")


class Attacker:
    """What a backend domain that went bad tries, from a process of its own beside the honest service."""

    def __init__(self) -> None:
        self._hypervisor = Hypervisor("backend", None)
        with XenStore.connect(None) as store:
            self._hypervisor.set_domid(own_domid(store))
        self._prober, self._keeper = Prober(self._hypervisor), Keeper(self._hypervisor)

    def kernel_lets_through(self) -> bool:
        """Whether it is Xen that refuses us: our own kernel passes on a hypercall that anybody may make."""
        return hypercall(XEN_VERSION) > 0

    def probe(self, **what: int) -> dict[str, Any]:
        """Every page and every grant reference; see dom0_backend.probe."""
        return self._prober.probe(**what).as_json()

    def keep(self, frontend: int, grefs: list[int], count: int) -> dict[str, Any]:
        """Maps some of the pages that are granted now, and keeps them."""
        return {"pages": self._keeper.keep(frontend, grefs, count)}

    def scribble(self) -> dict[str, Any]:
        """Writes over what it keeps."""
        return {"pages": self._keeper.scribble()}

    def see(
        self, frontend: int, frames: int, grefs: list[int], mediator: int, mediator_grefs: int, seed: int
    ) -> dict[str, Any]:
        """Frames of the frontend of which it sees tags with that seed, by whatever way."""
        seen = self._prober.see(frontend, frames, grefs, mediator, mediator_grefs, seed)
        return {"frames": sorted(seen | self._keeper.see(seed))}

    def let_go(self) -> dict[str, Any]:
        """Unmaps what it kept."""
        self._keeper.let_go()
        return {}
