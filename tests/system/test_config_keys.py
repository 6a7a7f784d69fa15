# SPDX-License-Identifier: GPL-2.0-or-later
"""Every key of the mediator's configuration does something."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import BaseModel

from domU_frontend import blk
from domU_frontend.blk import PAGE, Request
from xen_shadowvq import config as configuration
from xen_shadowvq.config import Config, Override
from xen_shadowvq.mediator import Mediator
from xenstore_schema import nodes

from .command import run as run_program
from .conftest import Connect
from .disk_io import DEPTH, one
from .keeper import InFlight
from .world import FRONTEND, MEDIATOR, OTHER, Service, World

Check = Callable[[World, Connect], None]
CHECKS: dict[str, Check] = {}
LARGE_SEGMENTS = 40


def checks(*keys: str) -> Callable[[Check], Check]:
    """Notes which keys a test is about."""

    def register(check: Check) -> Check:
        CHECKS.update(dict.fromkeys(keys, check))
        return check

    return register


def keys_of(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """All keys of the file, those of a list's items as `list[].key`."""
    for name, field in model.model_fields.items():
        kind = Override if name == "overrides" else field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys_of(kind, f"{above}{name}{'[]' if name == 'overrides' else ''}.")
        else:
            yield above + name


@pytest.mark.parametrize("key", [*keys_of(Config)])
def test_a_key_does_something(empty_world: World, connect: Connect, key: str) -> None:
    """With another value than the default the mediator does something else, of which there is a sign outside of it."""
    CHECKS[key](empty_world, connect)


def back(device: int = 0) -> str:
    """The mediator's directory."""
    return nodes.virtio_back_path(mediator=MEDIATOR, frontend=FRONTEND, device=device)


def offered(world: World, config: str, **disk: int) -> str:
    """The mediator's directory of a device that it has offered under a configuration."""
    world.start_backend()
    world.start_mediator(config)
    world.until_state(world.attach(world.image("disk.img", 1), **disk), "InitWait")
    return back()


def error(world: World, device: int = 0) -> str:
    """Why the device is not offered."""
    world.until(lambda: world.store.read(f"{back(device)}/error"), "error")
    return world.store.read(f"{back(device)}/error") or ""


# ---- log and workers -----------------------------------------------------------------------------------------------


def log_of(world: World, config: str) -> str:
    """What a mediator has logged that was started and stopped."""
    path = world.directory / "log.yaml"
    path.write_text(config)
    arguments = ["xen_shadowvq", "mediator", "--sim", str(world.sim), "--domid", str(MEDIATOR), "--config", str(path)]
    service = Service("mediator", arguments, world.directory / "log")
    world.services.append(service)
    device = world.attach(world.image("disk.img", 1))
    assert world.status(device)["device"] == device
    assert service.terminate() == 0
    return service.log_path.read_text()


@checks("log.level")
def level(world: World, _: Connect) -> None:
    assert log_of(world, "log: {level: error}\n") == ""


@checks("log.format")
def log_format(world: World, _: Connect) -> None:
    text = log_of(world, "log: {format: console}\n")
    assert "service_ready" in text and "{" not in text


def threads(world: World) -> dict[str, str]:
    """The mediator's threads, and the processors that each may use."""
    found = {}
    for task in Path(f"/proc/{world.mediator.process.pid}/task").iterdir():
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        found[task.name] = status["Cpus_allowed_list"]
    return found


@checks("workers.count")
def count(world: World, _: Connect) -> None:
    world.start_mediator("workers: {count: 1}\n")
    before = len(threads(world))
    world.keep_alive(MEDIATOR)
    assert world.mediator.terminate() == 0
    world.start_mediator("workers: {count: 4}\n")
    assert len(threads(world)) == before + 3


@checks("workers.cpus")
def cpus(world: World, _: Connect) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    world.start_mediator(f"workers: {{count: 2, cpus: [{allowed[-1]}]}}\n")
    before = list(threads(world).values())
    assert before.count(str(allowed[-1])) == (1 if len(allowed) > 1 else len(before))


@contextmanager
def mediator_in_this_process(world: World, config: str) -> Iterator[Mediator]:
    """For what only its own process can be asked."""
    path = world.directory / "here.yaml"
    path.write_text(config)
    with Mediator(configuration.load(path), (world.sim, MEDIATOR)) as mediator:
        serving = threading.Thread(target=mediator.service.run)
        serving.start()
        try:
            yield mediator
        finally:
            mediator.service.stop()
            serving.join()


@checks("workers.poll_us")
def poll_us(world: World, connect: Connect) -> None:
    world.start_backend()
    world.keep_alive(MEDIATOR)
    device = world.attach(world.image("disk.img", 1))
    rounds = []
    frontend = None
    for limit in (10000, 0):
        with mediator_in_this_process(world, f"workers: {{poll_us: {limit}}}\n") as mediator:
            if frontend is None:
                frontend = connect(device)
            else:
                frontend.reconnect()
            for _ in range(20):
                one(frontend, blk.IN, 0)
            rounds.append(mediator.workers[0].stats()["rounds"])
            frontend.disconnect()
    assert rounds[0] > 10 * rounds[1]


# ---- how buffers travel --------------------------------------------------------------------------------------------


def figures(world: World, connect: Connect, config: str, length: int = PAGE) -> dict[str, object]:
    """The mediator's account after a read of whole pages."""
    world.start_backend()
    world.start_mediator(config)
    device = world.attach(world.image("disk.img", 1))
    frontend = connect(device)
    assert one(frontend, blk.IN, 0, length).status == blk.STATUS_OK
    return world.status(device)


@checks("defaults.placement")
def placement(world: World, connect: Connect) -> None:
    found = figures(world, connect, "defaults: {placement: copy}\n")
    assert (found["placement"], found["grants"]) == ("copy", 0)


@checks("defaults.copy_threshold")
def copy_threshold(world: World, connect: Connect) -> None:
    assert figures(world, connect, "defaults: {copy_threshold: 8192}\n")["bytes_zero_copy"] == 0


@checks("defaults.window")
def window(world: World, connect: Connect) -> None:
    assert figures(world, connect, "defaults: {window: dynamic}\n")["window"] == "dynamic"


def content_while_read(world: World, connect: Connect, config: str) -> bytes:
    """What is in a buffer that the guest has filled, while the backend is to write to it."""
    world.start_backend()
    world.start_mediator(config)
    device = world.attach(world.image("disk.img", 1))
    frontend = connect(device)
    first = -(-frontend.driver.gpa(frontend.driver.data_first_page) // PAGE) * PAGE
    frontend.driver.memory(first, 4)[:] = b"mine"
    request = InFlight(world, frontend, device)
    found = bytes(frontend.driver.memory(first, 4))
    world.backend.resume()
    request.abandon()
    return found


@checks("defaults.clear")
def clear(world: World, connect: Connect) -> None:
    assert content_while_read(world, connect, "defaults: {clear: false}\n") != bytes(4)


@checks("defaults.memory")
def memory(world: World, _: Connect) -> None:
    world.store.write(f"/local/domain/{FRONTEND}/memory/target", "1024")
    world.start_backend()
    world.start_mediator("defaults: {memory: fixed}\n")
    world.attach(world.image("disk.img", 1))
    assert "memory: fixed" in error(world)


@checks("defaults.bounce_pages")
def bounce_pages(world: World, connect: Connect) -> None:
    world.start_backend()
    world.start_mediator("defaults: {bounce_pages: 64}\n")
    few = connect(world.attach(world.image("disk.img", 1))).geometry.segments_max
    assert few < 50  # what 512 pages make


@checks("defaults.large_chains")
def large_chains(world: World, connect: Connect) -> None:
    world.start_backend()
    world.start_mediator("defaults: {large_chains: 1}\n")
    device = world.attach(world.image("disk.img", 1))
    frontend = connect(device)
    base = frontend.driver.gpa(frontend.driver.data_first_page)
    length = LARGE_SEGMENTS * PAGE
    large = [Request(blk.IN, 0, base + n * length, length, segments=LARGE_SEGMENTS) for n in range(DEPTH)]
    world.backend.stop()
    running = threading.Thread(target=frontend.driver.run, args=(large, DEPTH))
    running.start()
    world.until(lambda: world.status(device)["parked"], "queue that waits for its one large chain")
    world.backend.resume()
    running.join()


# ---- limits --------------------------------------------------------------------------------------------------------


@checks("limits.devices")
def devices(world: World, _: Connect) -> None:
    offered(world, "limits: {devices: 1}\n")
    assert "limits.devices" in error(world, world.attach(world.image("second.img", 1)))


@checks("limits.queues_per_device")
def queues_per_device(world: World, _: Connect) -> None:
    path = offered(world, "limits: {queues_per_device: 2}\n", queues=4)
    assert world.store.read(f"{path}/num-queues") == "2"


@checks("limits.queue_size_max")
def queue_size_max(world: World, _: Connect) -> None:
    assert world.store.read(f"{offered(world, 'limits: {queue_size_max: 64}')}/queue-size-max") == "64"


@checks("limits.drain_timeout_ms")
def drain_timeout_ms(world: World, _: Connect) -> None:
    short = world.store.read(f"{offered(world, 'limits: {drain_timeout_ms: 10}')}/close-timeout-ms")
    assert int(short or 0) == 2020


@checks("limits.memory_gib_max")
def memory_gib_max(world: World, _: Connect) -> None:
    world.store.write(f"/local/domain/{FRONTEND}/memory/static-max", str(2 << 20))
    world.start_backend()
    world.start_mediator("limits: {memory_gib_max: 1}\n")
    world.attach(world.image("disk.img", 1))
    assert "limits.memory_gib_max" in error(world)


# ---- overrides: each key of the defaults, and which devices they are for -------------------------------------------


@checks("overrides[].frontend", "overrides[].device")
def overridden_devices(world: World, connect: Connect) -> None:
    world.start_backend()
    world.start_mediator(f"overrides: [{{frontend: {FRONTEND}, device: 1, placement: copy}}]\n")
    for domid, device, expected in ((FRONTEND, 0, "exact"), (FRONTEND, 1, "copy"), (OTHER, 1, "exact")):
        world.attach(world.image(f"{domid}-{device}.img", 1), domid, device=device)
        assert world.status(device, domid)["placement"] == expected


def overriding(key: str) -> Check:
    """The check of a default, with an override in its place."""

    def check(world: World, connect: Connect) -> None:
        start = world.start_mediator

        def overridden(config: str) -> object:
            return start(config.replace("defaults: {", f"overrides: [{{frontend: {FRONTEND}, ").replace("}", "}]"))

        world.start_mediator = overridden  # type: ignore[method-assign,assignment]
        CHECKS[f"defaults.{key}"](world, connect)

    return check


for name in ("placement", "copy_threshold", "window", "clear", "memory", "bounce_pages", "large_chains"):
    CHECKS[f"overrides[].{name}"] = overriding(name)


# ---- what cannot be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        ("cpus: [999]", "processor 999"),
        ("count: 2, cpus: [0, 4095]", "processor 4095"),
        ("cpus: [0, 0]", "2 processors, expected at most 1"),
    ],
)
def test_a_processor_that_is_not_there(empty_world: World, workers: str, words: str) -> None:
    """A worker that cannot be pinned as the configuration says is refused: status 2, one line."""
    path = empty_world.directory / "cpus.yaml"
    path.write_text(f"workers: {{{workers}}}\n")
    done = run_program("mediator", "--sim", str(empty_world.sim), "--domid", str(MEDIATOR), "--config", str(path))
    (line,) = done.err.splitlines()
    assert done.status == 2 and line.startswith("shadowvq: workers.cpus: ") and words in line
