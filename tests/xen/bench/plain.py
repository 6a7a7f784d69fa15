# SPDX-License-Identifier: GPL-2.0-or-later
"""The baselines that share memory beforehand: `plain`, all of the guest's, and `swiotlb`, one area of it.

INSECURE, as they are meant to be: for the benchmark alone. `plain/` has the device; its leg 1 is written from dom0.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.harness import Domain, Machine
from tests.harness.errors import CommandFailed
from tests.harness.images import compile_program
from tests.harness.packages import REPOSITORY, DebianTree
from tests.harness.scripts import until
from tests.xen.bench.lab import IMAGE, disk_of, load_modules
from tests.xen.scripted_mediator import BLOCK_DEVICE, ScriptedMediator
from tests.xen.topology import PAYLOAD
from xenstore_schema import State, nodes

PROGRAM = "svq_plain"
SOURCES = Path(__file__).parent / "plain"
REPLACED = {"be_chain.c", "be_map.c", "be_cache.c", "be_device.c"}
QUEUE_SIZE = 256
SERVE_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Run:
    """Frames of the guest, and the references under which they are granted."""

    gfn: int
    count: int
    gref: int

    def __str__(self) -> str:
        return f"{self.gfn}:{self.count}:{self.gref}"


def compile_plain(tree: DebianTree, program: Path) -> Path:
    """The device of the baselines, from the product's own backend and the files that replace some of it."""
    helpers, backend = REPOSITORY / "c_helpers", REPOSITORY / "dom0_backend"
    seam = [helpers / "src" / room for room in ("seam", "sim", "sim/broker", "xen")]
    sources = [*SOURCES.glob("*.c"), *(file for file in (backend / "src").glob("*.c") if file.name not in REPLACED)]
    sources += [source for room in seam for source in room.glob("*.c")]
    rooms = [SOURCES, helpers / "include", helpers / "src" / "ring", backend / "include", backend / "src", *seam]
    includes = [f"-I{room}" for room in rooms]
    uring = tree.root / "usr/lib/x86_64-linux-gnu/liburing.a"
    compile_program(
        tree, sorted(sources), program, *includes, "-flto", "-fvisibility=hidden", "-pthread", uring, "-ldl"
    )
    return program


class SharedDevice(ScriptedMediator):
    """A disk of the guest that its backend serves from memory which was granted to it once and for all."""

    def __init__(self, machine: Machine, guest: Domain, backend: Domain, device: int) -> None:
        super().__init__(machine, guest, device, backend.domid)
        self._backend = backend
        self._out = f"/run/plain-{guest.domid}-{device}"

    def start(self, memory: Run) -> str:
        """Grants all of `memory`, in which the rings are, connects, and returns the disk's name in the guest."""
        load_modules(self._guest)
        features, config = self._backend.run(f"{PAYLOAD}/{PROGRAM} offer {IMAGE}").stdout.split()
        self._offer_disk(int(features, 16), bytes.fromhex(config))
        self.wait_front(State.Initialised)
        front = nodes.VirtioFront
        accepted = int(self._text(front.FEATURES_ACCEPTED.path(self.front)), 0)
        named = (front.QUEUE_SIZE, front.QUEUE_DESC, front.QUEUE_AVAIL, front.QUEUE_USED, front.QUEUE_EVENT_CHANNEL)
        ring = " ".join(self._text(node.path(self.front, 0)) for node in named)
        domids = f"{self._guest.domid} {self._backend.domid}"
        self._machine.run(f"{PAYLOAD}/{PROGRAM} grant {domids} {memory}", deadline_s=SERVE_DEADLINE_S)
        self._serve(f"{IMAGE} {self._guest.domid} {accepted:x} {ring} {memory}")
        self.say(State.Connected)
        self.wait_front(State.Connected)
        return disk_of(self._guest, self.device)

    def counters(self) -> dict[str, int]:
        """What the device has counted so far."""
        out = self._out
        text = self._backend.run(
            f"lines=$(wc -l <{out}); kill -USR1 $(cat {out}.pid); "
            f"{until(f'[ $(wc -l <{out}) -gt $lines ]')}; tail -n 1 {out}"
        ).stdout
        found: dict[str, int] = json.loads(text)
        if found["fault"]:
            raise CommandFailed(f"the baseline's device has stopped with fault {found['fault']}")
        return found

    def _text(self, path: str) -> str:
        return self._machine.run(f"xenstore-read {path}").stdout.strip()

    def _offer_disk(self, features: int, config: bytes) -> None:
        vb = nodes.VirtioBack
        entries = (
            (vb.VERSION, nodes.VERSION),
            (vb.DEVICE_TYPE, BLOCK_DEVICE),
            (vb.FEATURES, features),
            (vb.CONFIG, config),
            (vb.CONFIG_GENERATION, 1),
            (vb.NUM_QUEUES, 1),
            (vb.QUEUE_SIZE_MAX, QUEUE_SIZE),
            (vb.GRANT_REFS_WANTED, 0),
            (vb.CLOSE_TIMEOUT_MS, 1000),
            (vb.HELD_PAGES, 0),
            (vb.STATE, State.InitWait),
        )
        for node, value in entries:
            self.write(node, value)

    def _serve(self, arguments: str) -> None:
        out = self._out
        self._backend.run(
            f"({PAYLOAD}/{PROGRAM} serve {arguments} >{out} 2>&1 & echo $! >{out}.pid); "
            f"{until(f'[ -s {out} ]', 200)}; read -r word rest <{out}; "
            f"[ $word = ready ] || {{ cat {shlex.quote(out)} >&2; exit 1; }}",
            deadline_s=SERVE_DEADLINE_S,
        )
