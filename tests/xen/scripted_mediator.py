# SPDX-License-Identifier: GPL-2.0-or-later
"""A mediator that only speaks: its nodes are written by hand in dom0, and no request is ever answered.

What a guest's module does with its requests then depends on nothing but what the mediator and dom0 say.
"""

from __future__ import annotations

from typing import Any

from tests.harness import Domain, Machine
from tests.harness.scripts import until
from xenstore_schema import State, nodes
from xenstore_schema.spec import Node

MEDIATOR = 32000  # a domain that is not there, so that no real mediator looks after its directories
QUEUE_SIZE = 64
# VERSION_1, ACCESS_PLATFORM, INDIRECT_DESC: each request is one descriptor, so that heads count from 0.
FEATURES = 1 << 32 | 1 << 33 | 1 << 28
BLOCK_DEVICE = 2
CONFIG_BYTES = 60
SECTORS = 2048


def config(sectors: int) -> bytes:
    """The configuration space of a disk, which has its size first."""
    return sectors.to_bytes(8, "little").ljust(CONFIG_BYTES, b"\0")


class ScriptedMediator:
    """Both directories of a device on leg 1, and dom0's record of it. dom0 may write everywhere."""

    def __init__(self, machine: Machine, guest: Domain, device: int, domid: int = MEDIATOR) -> None:
        self._machine, self._guest, self.device, self._domid = machine, guest, device, domid
        self.swept = 0
        ids = {"frontend": guest.domid, "device": device}
        self.path = nodes.virtio_back_path(mediator=domid, **ids)
        self.front = nodes.virtio_front_path(**ids)
        self.record = nodes.virtio_record_path(**ids)
        self.make()

    @property
    def anchor(self) -> str:
        """The folder in which the guest's kernel shows all that the module knows of this device."""
        return f"/sys/devices/virtio_xenbus/virtio-{self.device}"

    def _write(self, *entries: tuple[str, str]) -> None:
        self._machine.run("xenstore-write " + " ".join(f"{path} '{text}'" for path, text in entries))

    def write(self, node: Node[Any], value: Any) -> None:
        """One of the mediator's nodes."""
        self._write((node.path(self.path), node.format(value)))

    def make(self) -> None:
        """What the toolstack does: both directories with Initialising, and the record."""
        domid = self._guest.domid
        directories = ((self.record, 0, domid), (self.path, 0, domid), (self.front, domid, 0))
        self._machine.run(
            "; ".join(
                f"xenstore-write {path} ''; xenstore-chmod {path} n{owner} r{reader}"
                for path, owner, reader in directories
            )
        )
        vb, vf, vr = nodes.VirtioBack, nodes.VirtioFront, nodes.VirtioRecord
        initialising = vb.STATE.format(State.Initialising)
        self._write(
            (vr.MEDIATOR_ID.path(self.record), str(self._domid)),
            (vr.GRANT_MARK.path(self.record), "1"),
            (vr.SWEPT.path(self.record), str(self.swept)),
            (vb.FRONTEND.path(self.path), self.front),
            (vb.FRONTEND_ID.path(self.path), str(domid)),
            (vb.STATE.path(self.path), initialising),
            (vf.BACKEND.path(self.front), self.path),
            (vf.BACKEND_ID.path(self.front), str(self._domid)),
            (vf.STATE.path(self.front), initialising),
        )

    def offer(self, *, sectors: int = 0, refs_wanted: int = 0) -> None:
        """A disk. Without sectors, so that its driver reads nothing by itself; see `grow`."""
        vb = nodes.VirtioBack
        self._write(
            (vb.VERSION.path(self.path), str(nodes.VERSION)),
            (vb.DEVICE_TYPE.path(self.path), str(BLOCK_DEVICE)),
            (vb.FEATURES.path(self.path), str(FEATURES)),
            (vb.CONFIG.path(self.path), vb.CONFIG.format(config(sectors))),
            (vb.CONFIG_GENERATION.path(self.path), "1"),
            (vb.NUM_QUEUES.path(self.path), "1"),
            (vb.QUEUE_SIZE_MAX.path(self.path), str(QUEUE_SIZE)),
            (vb.GRANT_REFS_WANTED.path(self.path), str(refs_wanted)),
            (vb.CLOSE_TIMEOUT_MS.path(self.path), "1000"),
            (vb.HELD_PAGES.path(self.path), "0"),
            (vb.STATE.path(self.path), vb.STATE.format(State.InitWait)),
        )

    def connect(self, *, sectors: int = 0, refs_wanted: int = 0) -> None:
        """Offers, and is Connected when the guest has published its rings."""
        self.offer(sectors=sectors, refs_wanted=refs_wanted)
        self.wait_front(State.Initialised)
        self.say(State.Connected)
        self.wait_front(State.Connected)

    def grow(self) -> str:
        """The disk has sectors now; its name in the guest."""
        self.write(nodes.VirtioBack.CONFIG, config(SECTORS))
        self.write(nodes.VirtioBack.CONFIG_GENERATION, 2)
        there = until(f"ls -d {self.anchor}/virtio*/block/vd* >/dev/null 2>&1")
        name = self._guest.run(f"{there}; ls {self.anchor}/virtio*/block", deadline_s=90).stdout.strip()
        self._guest.run(until(f"[ $(cat /sys/block/{name}/size) = {SECTORS} ]"), deadline_s=90)
        return name

    def say(self, state: State) -> None:
        """Writes the mediator's state."""
        self.write(nodes.VirtioBack.STATE, state)

    def hold(self, pages: int, heads: set[int] | None) -> None:
        """Says how many pages are held, of which requests; None: that is not known."""
        if heads is not None:
            self.write_held(sum(1 << head for head in heads).to_bytes(QUEUE_SIZE // 8, "little").hex())
        self.write(nodes.VirtioBack.HELD_PAGES, pages)

    def write_held(self, text: str) -> None:
        """Writes the bits of held requests, or something else in their place."""
        self._write((nodes.VirtioBack.QUEUE_HELD.path(self.path, 0), text))

    def wait_front(self, state: State) -> None:
        """Waits until the guest's side has a state."""
        node = nodes.VirtioFront.STATE.path(self.front)
        self._machine.run(until(f'[ "$(xenstore-read {node})" = {state.value} ]'), deadline_s=90)

    def front_node(self, node: Node[int]) -> int | None:
        """One of the guest's nodes, None when it is not there."""
        text = self._machine.run(f"xenstore-read {node.path(self.front)} 2>/dev/null || true").stdout.strip()
        return int(text) if text else None

    def remove(self, *paths: str) -> None:
        """Removes directories, as the toolstack does."""
        self._machine.run("; ".join(f"xenstore-rm {path} 2>/dev/null || true" for path in paths))

    def sweep(self, more: int = 1) -> None:
        """What dom0 says when it has taken back all grants."""
        self.swept += more
        self._write((nodes.VirtioRecord.SWEPT.path(self.record), str(self.swept)))

    def end(self) -> None:
        """Everything ends and is taken away, and nothing of it is left in the guest."""
        self.sweep()
        self.remove(self.path, self.front)
        self._guest.run(until(f"[ ! -e {self.anchor} ]"), deadline_s=90)
        self.remove(self.record)
