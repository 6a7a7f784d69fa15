# SPDX-License-Identifier: GPL-2.0-or-later
"""The C engine between a frontend's memory and a backend's view of it, in one process on the embedded machine."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domU_frontend.hostile.rings import HostileDevice, RingLayout, RingWriter, ShadowDesc
from tests.engine.model import PAGE, Piece, Policy, Ring
from xen_shadowvq.native import Library, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

MEDIATOR, FRONTEND, BACKEND = 0, 7, 9
RAM_FRAMES = 1020  # frames 1020 to 1023 are no RAM
FRAMES = 1024
RING_FRAME = 8
TABLE_FRAME = 16
WINDOW_FRAME = 32
PLACEMENTS = {"exact": 0, "page": 1, "copy": 2}


class EngineRig:
    """A machine with a frontend, a mediator and a backend, and the mediator's view of the frontend."""

    def __init__(self) -> None:
        self.library: Library = load("mediator")
        self.lib, self.ffi = self.library.lib, self.library.ffi
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory())
        machine = self._new("struct svq_sim_machine **", self.lib.svq_sim_machine_start, directory.encode())
        self._stack.callback(self.lib.svq_sim_machine_stop, machine)
        for domid, frames, grants, privilege in (
            (MEDIATOR, 64, 64, self.lib.SVQ_SIM_PRIVILEGE_ALL),
            (FRONTEND, FRAMES, 64, self.lib.SVQ_SIM_PRIVILEGE_NONE),
            (BACKEND, 64, 4, self.lib.SVQ_SIM_PRIVILEGE_NONE),
        ):
            self._ok(self.lib.svq_sim_domain_create(machine, domid, frames, grants, privilege))
        self._ok(self.lib.svq_sim_domain_hole(machine, FRONTEND, RAM_FRAMES, FRAMES - RAM_FRAMES))
        self.mediator, self.frontend, self.backend = (
            self._handle(Path(directory), domid) for domid in (MEDIATOR, FRONTEND, BACKEND)
        )
        self.memory = self._own_memory()
        config = self.ffi.new("struct svq_guest_config *", {"domid": FRONTEND, "gfn_limit": FRAMES})
        self.guest = self._new("struct svq_guest **", self.lib.svq_guest_open, self.mediator, config, out_last=True)
        self._stack.callback(self.lib.svq_guest_close, self.guest)

    def _ok(self, rc: int) -> int:
        return self.library.check(rc, "rig")

    def _new(self, kind: str, make: Any, *args: Any, out_last: bool = True) -> Any:
        out = self.ffi.new(kind)
        self._ok(make(*args, out))
        return out[0]

    def _handle(self, directory: Path, domid: int) -> Any:
        hv = self._new("struct svq_hv **", self.lib.svq_hv_open_sim, bytes(directory / f"hv-dom{domid}.sock"))
        self._stack.callback(self.lib.svq_hv_close, hv)
        return hv

    def _own_memory(self) -> memoryview:
        gfns, va = self.ffi.new("uint64_t[]", RAM_FRAMES), self.ffi.new("void **")
        self._ok(self.lib.svq_hv_own_pages(self.frontend, 0, RAM_FRAMES, gfns, va))
        return memoryview(self.ffi.buffer(va[0], RAM_FRAMES * PAGE))

    # --- the backend's side ---------------------------------------------------------------------------------
    def map_grants(self, owner: int, grefs: Sequence[int], writable: bool) -> memoryview:
        """Maps grants of domain `owner` as the backend. Raises HypervisorError."""
        va = self.ffi.new("void **")
        self._ok(self.lib.svq_hv_map_grants(self.backend, owner, list(grefs), len(grefs), writable, va))
        return memoryview(self.ffi.buffer(va[0], len(grefs) * PAGE))

    def map_part(self, desc: ShadowDesc, writable: bool) -> memoryview:
        """Maps the pages of one shadow descriptor, from the domain that it names."""
        return self.map_grants(FRONTEND if desc.in_window else MEDIATOR, desc.grefs, writable)

    def unmap_grants(self, mapped: memoryview) -> None:
        """Undoes `map_grants`."""
        va = self.ffi.from_buffer(mapped)
        self._ok(self.lib.svq_hv_unmap_grants(self.backend, va, len(mapped) // PAGE))

    @contextmanager
    def mapped(self, desc: ShadowDesc, writable: bool) -> Iterator[memoryview]:
        """The bytes of one shadow descriptor, through grants."""
        pages = self.map_part(desc, writable)
        try:
            yield pages[desc.offset : desc.offset + desc.length]
        finally:
            self.unmap_grants(pages)

    def code(self, name: str) -> int:
        """The number of an error, from its name without SVQ_E_."""
        number: int = getattr(self.lib, f"SVQ_E_{name}")
        return number


@dataclass(frozen=True)
class Fault:
    """struct svq_fault, with the code's name; empty while the device is well."""

    name: str
    queue: int
    head: int


class EngineDevice:
    """One device with one queue, driven by hand: both of its sides are plain memory."""

    def __init__(self, rig: EngineRig, size: int, policy: Policy) -> None:
        self.rig, self.lib, self.ffi = rig, rig.lib, rig.ffi
        frames = [frame * PAGE for frame in (RING_FRAME, RING_FRAME + 1, RING_FRAME + 2)]
        self.ring = Ring(size, *frames)
        self.writer = RingWriter(rig.memory, RingLayout(size, *frames))
        self.writer.clear()
        config = self.ffi.new("struct svq_device_config *", {"backend_domid": BACKEND, "num_queues": 1})
        config.placement, config.copy_threshold = PLACEMENTS[policy.placement], policy.copy_threshold
        config.bounce_pages, config.large_chains = 1024, 16
        config.frontend_indirect = policy.indirect
        config.mark = 1
        config.window.first_gref, config.window.count, config.window.direct = WINDOW_FRAME * 512, FRAMES, 1
        out = self.ffi.new("struct svq_device **")
        rig.library.check(self.lib.svq_device_create(rig.guest, config, out), "device_create")
        self._dev = out[0]
        self._mapped: list[memoryview] = []

    def __enter__(self) -> Self:
        try:
            self._setup()
        except BaseException:
            self.lib.svq_device_close(self._dev)
            raise
        return self

    def _setup(self) -> None:
        queue = self.ffi.new("struct svq_queue_config *", {"size": self.ring.size, "desc_gpa": self.ring.desc})
        queue.avail_gpa, queue.used_gpa = self.ring.avail, self.ring.used
        refs = self.ffi.new("struct svq_queue_refs *")
        self.rig.library.check(self.lib.svq_queue_setup(self._dev, self.ffi.NULL, queue, refs), "queue_setup")
        self.rig.library.check(self.lib.svq_device_start(self._dev), "device_start")
        for grefs, count, writable in (
            (refs.desc_refs, refs.desc_pages, False),
            (refs.avail_refs, refs.avail_pages, False),
            (refs.used_refs, refs.used_pages, True),
        ):
            self._mapped.append(self.rig.map_grants(MEDIATOR, list(grefs[0:count]), writable))
        desc, avail, used = self._mapped
        self.device = HostileDevice(desc, avail, used, self.ring.size)

    def __exit__(self, *_: object) -> None:
        del self.device
        for mapped in self._mapped:
            self.rig.unmap_grants(mapped)
        self.left = self.lib.svq_device_stop(self._dev) + self.window_in_use()
        self.lib.svq_device_close(self._dev)

    def forward(self) -> int:
        """Passes from the driver to the device until there is nothing left to do: the chains, or the error."""
        return self._passes(self.lib.svq_queue_forward)

    def complete(self) -> int:
        """Passes from the device to the driver until there is nothing left to do."""
        return self._passes(self.lib.svq_queue_complete)

    def _passes(self, one: Callable[[Any, int, int], int]) -> int:
        total = 0
        while (chains := one(self._dev, 0, 0x10000)) > 0:
            total += chains
        return total if chains == 0 else chains

    def window_in_use(self) -> int:
        """Entries of the window that have the device's mark."""
        count: int = self.lib.svq_device_window_in_use(self._dev)
        return count

    def fault(self) -> Fault:
        """How the device broke."""
        fault = self.ffi.new("struct svq_fault *")
        self.lib.svq_device_fault(self._dev, fault)
        name = self.ffi.string(self.lib.svq_err_name(fault.code)).decode() if fault.code else ""
        return Fault(name.removeprefix("SVQ_E_"), fault.queue, fault.head)

    def stats(self) -> dict[str, int]:
        """struct svq_queue_stats."""
        stats = self.ffi.new("struct svq_queue_stats *")
        self.rig.library.check(self.lib.svq_queue_read_stats(self._dev, 0, stats), "queue_read_stats")
        return {name: getattr(stats, name) for name in dir(stats)}

    def parts(self, head: int) -> list[ShadowDesc]:
        """The shadow chain of `head`, its shadow indirect table resolved."""
        chain = self.device.chain(head)
        if not chain[0].is_indirect:
            return chain
        assert len(chain) == 1
        with self.rig.mapped(chain[0], writable=False) as table:
            return self.device.chain(0, bytes(table))

    def read(self, part: ShadowDesc) -> bytes:
        """What the device finds in a part."""
        with self.rig.mapped(part, writable=False) as found:
            return bytes(found)

    def write(self, part: ShadowDesc, data: bytes) -> None:
        """What the device leaves in a part."""
        with self.rig.mapped(part, writable=True) as target:
            target[:] = data

    def pieces(self, parts: list[ShadowDesc], expected: list[Piece]) -> list[Piece]:
        """The parts as pieces of the chain that the model expects, joined where they belong to one piece."""
        found: list[Piece] = []
        for part in parts:
            granted = part.in_window
            open_piece = found and found[-1].length < expected[len(found) - 1].length
            if open_piece and found[-1].granted == granted and found[-1].writable == part.device_writes:
                last = found.pop()
                gpa, length = last.gpa, last.length + part.length
            else:
                at = expected[len(found)].gpa if len(found) < len(expected) else -1
                gpa, length = at, part.length
            if granted and not open_piece:
                gpa = (part.gref - WINDOW_FRAME * 512) * PAGE + part.offset
            found.append(Piece(gpa, length, part.device_writes, granted))
        return found
