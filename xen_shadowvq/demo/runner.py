# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the demo: starts the three processes, has them do the main job, probes the isolation, writes the report."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from xen_shadowvq import devices, toolstack
from xen_shadowvq.demo import image as images
from xen_shadowvq.demo.aftermath import Witness
from xen_shadowvq.demo.isolation import PAGE, Verdict, judge
from xen_shadowvq.demo.report import write_json
from xen_shadowvq.demo.surroundings import ended_by_signals, machine_folder, operators_files
from xen_shadowvq.dom0 import Dom0
from xen_shadowvq.domain import hypervisor_socket
from xen_shadowvq.embedded.machine import PAGES_PER_MIB, PRIVILEGE_ALL, DomainSpec, Machine
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.hypervisor import Hypervisor, grants_per_frame
from xen_shadowvq.new_device import Disk
from xen_shadowvq.rpc import Child

MEDIATOR, BACKEND, FRONTEND = 1, 2, 3
GUEST_MIB = 64
MEDIATOR_GRANT_FRAMES = 64
FRONTEND_GRANT_FRAMES = {"direct": 128, "dynamic": 64}
REGION_BYTES_MAX = 8 << 20
IMAGE_BYTES_MIN = 256 << 10
IMAGE_MIB = 256
CALL_S = 30.0

Step = Callable[[str, int], Callable[[int], None]]
"""Begins a step of the demo with a name and a size in bytes; returns what to call with the number of bytes done."""


@dataclass(frozen=True)
class Options:
    """
    What the operator may choose. `image` None: make one. `keep`: called with the machine's folder, the guest's name
    and the device before the device is closed, and returns when everything may end.
    """

    output: Path
    image: Path | None = None
    placement: str = "exact"
    window: str = "direct"
    direct_io: bool = False
    seed: int = 1
    keep: Callable[[Path, str, int], None] | None = None


def run(options: Options, step: Step) -> dict[str, Any]:
    """
    Runs the whole demo, and returns the report, which is also in report.json. ShadowVQError: something did not work at
    all.
    """
    options = replace(options, output=options.output.absolute())
    with operators_files(options.output), ended_by_signals(), ExitStack() as stack:
        options.output.mkdir(parents=True, exist_ok=True)
        disk = options.output / "disk.img"
        _prepare_image(options, disk, step)
        directory = stack.enter_context(machine_folder())
        machine = stack.enter_context(Machine(directory))
        processes = stack.enter_context(_processes(machine, directory, options, disk))
        report = _Demo(machine, processes, options, disk, step).run()
        write_json(report, options.output / "report.json")
        return report


@dataclass(frozen=True)
class _Processes:
    frontend: Child
    backend: Child
    mediator: _Mediator
    device: int


def _prepare_image(options: Options, disk: Path, step: Step) -> None:
    step("preparing the disk image", 0)
    if options.image is None:
        images.make_image(disk, IMAGE_MIB)
    else:
        images.copy_image(options.image, disk)
    if disk.stat().st_size < IMAGE_BYTES_MIN:
        raise ConfigError(
            f"{options.image}: the image has {disk.stat().st_size} bytes, expected at least {IMAGE_BYTES_MIN}"
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
    link = directory / "disk.img"
    link.symlink_to(disk)
    disk_spec = Disk(str(link), direct_io=options.direct_io, serial="shadowvq-demo")
    with ExitStack() as stack:
        dom0 = stack.enter_context(Dom0(directory, machine.store))
        device = toolstack.attach(dom0, frontend=FRONTEND, mediator=MEDIATOR, backend=BACKEND, disk=disk_spec)
        mediator = stack.enter_context(_Mediator(directory, config, logs / "mediator.log"))
        backend = stack.enter_context(
            Child("backend", "dom0_backend.process", [str(directory), str(BACKEND)], logs / "backend.log")
        )
        arguments = [str(directory), str(FRONTEND), str(device), str(GUEST_MIB), str(options.seed)]
        frontend = stack.enter_context(Child("frontend", "domU_frontend.process", arguments, logs / "frontend.log"))
        yield _Processes(frontend, backend, mediator, device)


class _Mediator:
    """The service as an operator starts it, in a domain that outlives it; as a context manager."""

    def __init__(self, directory: Path, config: Path, log: Path) -> None:
        self._command = [sys.executable, "-m", "xen_shadowvq.demo.mediator_process", "--sim", str(directory)]
        self._command += ["--domid", str(MEDIATOR), "--config", str(config)]
        self._domain = Hypervisor("driver", hypervisor_socket(directory, MEDIATOR))
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and appends to its log."""
        with self._log.open("ab") as stderr:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stderr=stderr)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.communicate()

    def __enter__(self) -> Self:
        self._log.unlink(missing_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.communicate()
        self._domain.close()


class _Demo:
    def __init__(self, machine: Machine, processes: _Processes, options: Options, disk: Path, step: Step) -> None:
        self._machine, self._p, self._options, self._disk, self._step = machine, processes, options, disk, step
        size = disk.stat().st_size
        self._bytes = size - size % 512
        self._random = random.Random(options.seed)  # noqa: S311 - where to write, not a secret
        self._report: dict[str, Any] = {}
        length = min(REGION_BYTES_MAX, self._bytes // 2 // PAGE * PAGE)
        sectors = (self._bytes - length) // 512
        self._region = {"offset": self._random.randrange(sectors) * 512, "length": length}

    def run(self) -> dict[str, Any]:
        started = time.monotonic()
        self._connect()
        self._read_all()
        self._write_region()
        self._isolation()
        self._figures()
        self._aftermath()
        self._report |= {
            "window_in_use_at_end": self._status()["window_in_use"],
            "canaries_broken": self._p.frontend.call("counters")["canaries_broken"],
        }
        if self._options.keep:
            self._step("everything stays up, for you to look at", 0)
            self._options.keep(self._machine.directory, "frontend", self._p.device)
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
        progress = self._step("writing a region, flushing, reading back", region["length"])
        kept = frontend.call("keep_region", None, **region)
        written = frontend.call("write_region", progress, **region)
        on_disk = images.sha256(self._disk, region["offset"], region["length"])
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
            grefs=FRONTEND_GRANT_FRAMES[self._options.window] * grants_per_frame(),
            mediator=MEDIATOR,
            mediator_grefs=MEDIATOR_GRANT_FRAMES * grants_per_frame(),
        )
        return judge(found, buffers)

    def _aftermath(self) -> None:
        """Everything is put back afterwards, as in `_write_region`."""
        frontend, backend, offset = self._p.frontend, self._p.backend, self._region["offset"]
        where = {
            "frontend": FRONTEND,
            "frames": GUEST_MIB * PAGES_PER_MIB,
            "grefs": FRONTEND_GRANT_FRAMES[self._options.window] * grants_per_frame(),
            "mediator": MEDIATOR,
            "mediator_grefs": MEDIATOR_GRANT_FRAMES * grants_per_frame(),
        }
        witness = Witness(partial(_call, frontend), partial(_call, backend), where)
        kept = frontend.call("keep_region", None, **self._region)
        self._step("keeping mappings past their requests", 0)
        kept_mapping = witness.kept_mapping(offset)
        self._step("killing the mediator with requests alive", 0)
        killed = witness.mediator_killed(offset, self._p.mediator.kill, self._p.mediator.start)
        restored = frontend.call("restore_region", offset=offset)
        self._report |= {
            "restored_sha256_match": self._report["restored_sha256_match"] and restored == kept,
            "reachable_after_kept_mapping": kept_mapping.reachable,
            "reachable_after_mediator_killed": killed.reachable,
            "guest_saw_kept_mapping": kept_mapping.guest_saw,
            "guest_saw_mediator_killed": killed.guest_saw,
            "kept_mapping": asdict(kept_mapping),
            "mediator_killed": asdict(killed),
        }

    def _status(self) -> dict[str, Any]:
        with Dom0(self._machine.directory, self._machine.store) as dom0:
            return devices.status(dom0, devices.find(dom0, FRONTEND, self._p.device), CALL_S)

    def _figures(self) -> None:
        self._step("collecting figures", 0)
        mediator = self._status()
        driver, backend = self._p.frontend.call("counters"), self._p.backend.call("stats")
        latencies = sorted(driver.pop("latencies_ns"))
        requests = mediator["completions"]
        self._report |= {
            "requests": requests,
            "data_mib": round(driver["data_bytes"] / (1 << 20), 1),
            "bytes_zero_copy": mediator["bytes_zero_copy"],
            "bytes_bounced": mediator["bytes_bounced"],
            "grants": mediator["grants"],
            "grants_ended": mediator["grants_ended"],
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
        }


def _call(child: Child, method: str, /, **arguments: Any) -> Any:
    return child.call(method, None, **arguments)
