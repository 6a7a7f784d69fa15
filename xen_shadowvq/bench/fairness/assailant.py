# SPDX-License-Identifier: GPL-2.0-or-later
"""One device of a hostile frontend, which writes its rings by hand and connects as often as the mediator lets it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence

from domU_frontend.frontend import Frontend
from domU_frontend.hostile.rings import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    PAGE_BYTES,
    Desc,
    RingLayout,
    RingWriter,
)
from xen_shadowvq.native import load
from xen_shadowvq.xenbus import Phase

PATIENCE_S = 60.0
QUEUE_SIZE = 256
READ, WRITE_ZEROES, NO_SUCH_TYPE = 0, 13, 99
SECTOR = 512

_HEADERS, _STATUSES, _TABLES = 0, 1, 2  # data pages; from _TABLES on, one for each head of each queue
_NAP_S = 20e-6
_CODE = re.compile("SVQ_E_[A-Z_]+")
_LOOK_EVERY_TURNS = 64

Part = tuple[int, int, int]
"""A segment: guest physical address, bytes, DESC_F_WRITE or 0."""

Stopped = Callable[[], bool]


class Assailant:
    """`counts` records what it did. `stopped` is asked often: whatever runs ends soon after it returns True."""

    def __init__(self, frontend: Frontend, queues: int, memory_bytes: int, stopped: Stopped) -> None:
        self.frontend = frontend
        self.queues = range(queues)
        self.memory_bytes = memory_bytes
        self.stopped = stopped
        self.counts: Counter[str] = Counter()
        self.rings: list[RingWriter] = []
        self._seen = [0] * queues
        self._connected_once = False
        self._library = load("driver").lib

    # ---- connecting --------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Makes a new connection, with empty rings."""
        if self._connected_once:
            self.frontend.reconnect(PATIENCE_S)
        else:
            self.frontend.connect(PATIENCE_S)
        self._connected_once = True
        self.counts["connections"] += 1
        driver = self.frontend.driver
        memory = driver.memory(driver.gpa(0), driver.pages * PAGE_BYTES)
        self.rings = []
        for queue in self.queues:
            at = driver.addresses(queue)
            self.rings.append(
                RingWriter(memory, RingLayout(at.size, *map(driver.offset, (at.desc, at.avail, at.used))))
            )
        self._seen = [0] * len(self.queues)

    def disconnect(self) -> None:
        """Closes the connection, whichever side began to."""
        if self.frontend.side.phase is not Phase.CLOSED:
            self.frontend.disconnect(PATIENCE_S)

    def connected(self) -> bool:
        """Whether the mediator still serves it."""
        while self.frontend.store.next_event(timeout_ms=0) is not None:
            self.frontend.side.look()
        return self.frontend.side.phase is Phase.CONNECTED

    def after_a_break(self) -> None:
        """Connects again, unless the attack is over, after the mediator closed the device or while it is about to."""
        self.frontend.wait_closed(PATIENCE_S)
        error = self.frontend.store.read(f"{self.frontend.side.peer_path}/error") or ""
        code = _CODE.search(error)
        self.counts[f"broken: {code[0] if code else error}"] += 1
        if not self.stopped():
            self.connect()

    # ---- chains ------------------------------------------------------------------------------------------------------

    def page(self, number: int) -> int:
        """Guest physical address of a data page."""
        return self.frontend.driver.gpa(self.frontend.driver.data_first_page + number)

    def write(self, gpa: int, data: bytes) -> None:
        """Writes into the driver's own memory."""
        self.frontend.driver.memory(gpa, len(data))[:] = data

    def header(self, slot: int, kind: int, sector: int = 0, *, ranges: tuple[int, int] | None = None) -> Part:
        """A request's header; with `ranges` (sector, sectors), the 16 bytes of WRITE_ZEROES's data follow it."""
        gpa = self.page(_HEADERS) + 32 * slot
        data = kind.to_bytes(8, "little") + sector.to_bytes(8, "little")
        if ranges is not None:
            data += ranges[0].to_bytes(8, "little") + ranges[1].to_bytes(8, "little")
        self.write(gpa, data)
        return gpa, len(data), 0

    def status(self, slot: int) -> Part:
        """A request's status byte."""
        return self.page(_STATUSES) + slot, 1, DESC_F_WRITE

    def in_table(self, queue: int, head: int, parts: Sequence[Part]) -> int:
        """Makes `head` of a queue refer to an indirect table with these parts; returns the head."""
        gpa = self.page(_TABLES + queue * QUEUE_SIZE + head)
        last = len(parts) - 1
        table = [
            Desc(addr, length, flags | DESC_F_NEXT * (at < last), at + 1)
            for at, (addr, length, flags) in enumerate(parts)
        ]
        self.write(gpa, b"".join(desc.pack() for desc in table))
        self.rings[queue].set_desc(head, gpa, 16 * len(parts), DESC_F_INDIRECT)
        return head

    # ---- flows -------------------------------------------------------------------------------------------------------

    def flood(self, aim: Callable[[int], Sequence[int]]) -> None:
        """
        `aim` writes a queue's chains and returns their heads. Each is offered again as soon as it comes back, until the
        attack is over. If the mediator closes the device, the same begins again on a new connection.
        """
        while not self.stopped():
            for queue in self.queues:
                self.offer(queue, aim(queue))
            self.keep_going()
            if not self.stopped():
                self.after_a_break()

    def keep_going(self) -> None:
        """Offers again what comes back, until the attack is over or the device is closed."""
        turn = 0
        while not self.stopped():
            turn += 1
            if turn % _LOOK_EVERY_TURNS == 0 and not self.connected():
                return
            if not sum(self.offer(queue, self.take_back(queue)) for queue in self.queues):
                time.sleep(_NAP_S)

    def wait_for(self, chains: int) -> None:
        """Waits until so many of queue 0's chains have come back, the attack is over, or the device is closed."""
        while chains > 0 and not self.stopped() and self.connected():
            back = len(self.take_back(0))
            chains -= back
            if not back:
                time.sleep(_NAP_S)

    def take_back(self, queue: int) -> list[int]:
        """Returns the heads of a queue that have come back since the last call."""
        ring, heads = self.rings[queue], []
        for entry in ring.used_entries(self._seen[queue]):
            heads.append(entry.id)
        self._seen[queue] = (self._seen[queue] + len(heads)) % 0x10000
        self.counts["completions"] += len(heads)
        return heads

    def offer(self, queue: int, heads: Sequence[int]) -> int:
        """Makes heads available, with a kick; returns how many."""
        if heads:
            self.rings[queue].offer(heads)
            self.kick(queue)
        return len(heads)

    def kick(self, queue: int) -> None:
        """Sends one notification, wanted or not."""
        self._library.svq_drv_kick(self.frontend.driver.handle, queue)
        self.counts["kicks"] += 1
