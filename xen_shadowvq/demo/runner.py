# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the demo: sets the three processes up, has them do the main job, probes the isolation, writes the report."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xen_shadowvq import toolstack
from xen_shadowvq.demo import image as images
from xen_shadowvq.demo.isolation import Verdict, judge
from xen_shadowvq.demo.rpc import Child
from xen_shadowvq.embedded.machine import PAGES_PER_MIB, PRIVILEGE_ALL, DomainSpec, Machine
from xen_shadowvq.engine import GRANTS_PER_FRAME
from xen_shadowvq.errors import ConfigError

MEDIATOR, BACKEND, FRONTEND = 1, 2, 3
GUEST_MIB = 64
MEDIATOR_GRANT_FRAMES = 64
FRONTEND_GRANT_FRAMES = {"direct": 128, "dynamic": 64}
REGION_BYTES = 8 << 20
IMAGE_MIB = 256
CALL_S = 30.0

Step = Callable[[str, int], Callable[[int], None]]
"""Begins a step of the demo with a name and its size in bytes; the answer takes how far it has come."""


@dataclass(frozen=True)
class Options:
    """What the operator may choose. `image`: None makes one."""

    output: Path
    image: Path | None = None
    placement: str = "exact"
    window: str = "direct"
    direct_io: bool = False
    seed: int = 1


def run(options: Options, step: Step) -> dict[str, Any]:
    """The whole demo. ShadowVQError: something did not work at all. What came out is in the report that is returned."""
    options.output.mkdir(parents=True, exist_ok=True)
    disk = options.output / "disk.img"
    _prepare_image(options, disk, step)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shadowvq-")))
        machine = stack.enter_context(Machine(directory))
        processes = stack.enter_context(_processes(machine, directory, options, disk))
        return _Demo(machine, processes, options, disk, step).run()


@dataclass(frozen=True)
class _Processes:
    frontend: Child
    backend: Child
    mediator: subprocess.Popen[bytes]
    device: int


def _prepare_image(options: Options, disk: Path, step: Step) -> None:
    step("preparing the disk image", 0)
    if options.image is None:
        images.make_image(disk, IMAGE_MIB)
    else:
        images.copy_image(options.image, disk)
    if disk.stat().st_size < 2 * REGION_BYTES:
        raise ConfigError(
            f"{options.image}: the image has {disk.stat().st_size} bytes, expected at least {2 * REGION_BYTES}"
        )


@contextmanager
def _processes(machine: Machine, directory: Path, options: Options, disk: Path) -> Iterator[_Processes]:
    logs = options.output / "logs"
    logs.mkdir(exist_ok=True)
    machine.create_domain(
        DomainSpec(MEDIATOR, "mediator", max_grant_frames=MEDIATOR_GRANT_FRAMES, privilege=PRIVILEGE_ALL)
    )
    machine.create_domain(DomainSpec(BACKEND, "backend"))
    frames = FRONTEND_GRANT_FRAMES[options.window]
    machine.create_domain(DomainSpec(FRONTEND, "frontend", memory_mib=GUEST_MIB, max_grant_frames=frames))
    config = options.output / "mediator.yaml"
    config.write_text(f"defaults:\n  placement: {options.placement}\n  window: {options.window}\n")
    disk_spec = toolstack.Disk(str(disk.resolve()), direct_io=options.direct_io, serial="shadowvq-demo")
    device = toolstack.attach(machine.store, frontend=FRONTEND, mediator=MEDIATOR, backend=BACKEND, disk=disk_spec)
    with ExitStack() as stack:
        mediator = stack.enter_context(_mediator(directory, config, logs / "mediator.log"))
        backend = stack.enter_context(
            Child("backend", "xen_shadowvq.demo.backend_process", [str(directory), str(BACKEND)], logs / "backend.log")
        )
        arguments = [str(directory), str(FRONTEND), str(device), str(GUEST_MIB), str(options.seed)]
        frontend = stack.enter_context(
            Child("frontend", "xen_shadowvq.demo.frontend_process", arguments, logs / "frontend.log")
        )
        yield _Processes(frontend, backend, mediator, device)


@contextmanager
def _mediator(directory: Path, config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The service as an operator starts it."""
    command = [sys.executable, "-m", "xen_shadowvq", "mediator", "--sim", str(directory), "--domid", str(MEDIATOR)]
    with log.open("wb") as stderr:
        process = subprocess.Popen([*command, "--config", str(config)], stderr=stderr)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


class _Demo:
    def __init__(self, machine: Machine, processes: _Processes, options: Options, disk: Path, step: Step) -> None:
        self._machine, self._p, self._options, self._disk, self._step = machine, processes, options, disk, step
        size = disk.stat().st_size
        self._bytes = size - size % 512
        self._random = random.Random(options.seed)  # noqa: S311 - where to write, not a secret
        self._report: dict[str, Any] = {}
        sectors = (self._bytes - REGION_BYTES) // 512
        self._region = {"offset": self._random.randrange(sectors) * 512, "length": REGION_BYTES}

    def run(self) -> dict[str, Any]:
        started = time.monotonic()
        self._connect()
        self._read_all()
        self._write_region()
        self._isolation()
        self._figures()
        self._step("closing the device", 0)
        self._p.frontend.call("disconnect")
        self._step("asking the file system checker", 0)
        self._report["fsck_clean"] = images.fsck(self._disk)
        self._report["filesystem"] = images.filesystem(self._disk)
        self._report["seconds"] = round(time.monotonic() - started, 2)
        return self._report

    def _connect(self) -> None:
        self._step("connecting frontend, mediator and backend", 0)
        answer = self._p.frontend.call("connect")
        self._report |= {
            "hypervisor": "embedded",
            "image": str(self._options.image or "made by the demo"),
            "image_bytes": self._bytes,
            "placement": self._options.placement,
            "window": self._options.window,
            "segments_max": answer["segments_max"],
        }

    def _read_all(self) -> None:
        progress = self._step("reading all of the disk", self._bytes)
        expected = images.sha256(self._disk, 0, self._bytes)
        found = self._p.frontend.call("read_all", progress)["sha256"]
        self._report["image_sha256"] = expected
        self._report["image_sha256_match"] = found == expected

    def _write_region(self) -> None:
        """Everything is put back afterwards, so that the checker can judge the image as it was."""
        frontend, region = self._p.frontend, self._region
        progress = self._step("writing a region, flushing, reading back", REGION_BYTES)
        kept = frontend.call("keep_region", None, **region)
        written = frontend.call("write_region", progress, **region)
        on_disk = images.sha256(self._disk, region["offset"], REGION_BYTES)
        self._report["written_sha256_match"] = written["written"] == written["read_back"] == on_disk
        self._step("discard, write zeroes, get id, out of range", 0)
        special = frontend.call("special_requests", None, **region)
        restored = frontend.call("restore_region", offset=region["offset"])
        self._report["restored_sha256_match"] = restored == kept
        self._report |= {
            "write_zeroes_ok": special["write_zeroes"] == 0 and special["zeroes_read_back"],
            "discard_ok": special["discard"] == 0,
            "get_id": special["serial"],
            "out_of_range_is_ioerr": special["out_of_range"] == 1 and special["next_request"] == 0,
        }

    def _isolation(self) -> None:
        frontend, backend = self._p.frontend, self._p.backend
        self._step("attacking the frontend's memory, nothing in flight", 0)
        idle = [self._probe([])]
        self._step("attacking again, with requests held in flight", 0)
        kept = frontend.call("keep_region", None, **self._region)
        backend.call("hold", on=True)
        held = frontend.call("start_held", offset=self._region["offset"])
        backend.call("wait_held", requests=held["requests"])
        live = self._probe(held["buffers"])
        backend.call("hold", on=False)
        ended = frontend.call("finish_held")
        self._step("attacking once more, after they completed", 0)
        idle.append(self._probe([]))
        restored = frontend.call("restore_region", offset=self._region["offset"])
        self._report |= {
            "restored_sha256_match": self._report["restored_sha256_match"] and restored == kept,
            "pages_probed": sum(verdict.pages_probed for verdict in [*idle, live]),
            "pages_reachable_outside_requests": sum(verdict.pages_reachable for verdict in idle),
            "pages_reachable_inside_requests": live.pages_reachable,
            "bytes_reachable_outside_buffers": live.bytes_outside + sum(verdict.bytes_outside for verdict in idle),
            "pages_writable_beyond_requests": live.writable_outside,
            "held_requests_ok": ended["statuses"] == [0] and ended["count"] == held["requests"],
        }

    def _probe(self, buffers: list[list[int]]) -> Verdict:
        found = self._p.backend.call(
            "probe",
            frontend=FRONTEND,
            frames=GUEST_MIB * PAGES_PER_MIB,
            grefs=FRONTEND_GRANT_FRAMES[self._options.window] * GRANTS_PER_FRAME,
            mediator=MEDIATOR,
            mediator_grefs=MEDIATOR_GRANT_FRAMES * GRANTS_PER_FRAME,
        )
        return judge(found, buffers)

    def _figures(self) -> None:
        self._step("collecting figures", 0)
        found = toolstack.find(self._machine.store, FRONTEND, self._p.device, MEDIATOR)
        if found is None:
            raise ConfigError("the device is not there any more")
        mediator = toolstack.status(self._machine.store, found, CALL_S)
        driver, backend = self._p.frontend.call("counters"), self._p.backend.call("stats")
        latencies = sorted(driver.pop("latencies_ns"))
        requests = mediator["completions"]
        self._report |= {
            "requests": requests,
            "data_mib": round(driver["data_bytes"] / (1 << 20), 1),
            "bytes_zero_copy": mediator["bytes_zero_copy"],
            "bytes_bounced": mediator["bytes_bounced"],
            "grants": mediator["grants"],
            "revokes": mediator["revokes"],
            "window_in_use_at_end": mediator["window_in_use"],
            "backpressure_waits": mediator["parked"],
            "kicks_per_request": round(mediator["kicks_sent"] / requests, 4),
            "interrupts_per_request": round(mediator["interrupts_sent"] / requests, 4),
            "notifications_per_request": round(
                sum(mediator[n] for n in ("kicks_received", "kicks_sent", "answers_received", "interrupts_sent"))
                / requests,
                4,
            ),
            "maps_per_request": round(backend["map_calls"] / requests, 4),
            "latency_p50_us": latencies[len(latencies) // 2] / 1000,
            "latency_p99_us": latencies[len(latencies) * 99 // 100] / 1000,
            "io_engine": "io_uring" if backend["io_engine"] == 1 else "sync",
            "canaries_broken": driver["canaries_broken"],
        }
