# SPDX-License-Identifier: GPL-2.0-or-later
"""The mediator's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

from xen_shadowvq import models
from xen_shadowvq.log import Format, Level
from xen_shadowvq.models import Section
from xenstore_schema.spec import DOMID_MAX

Placement = Literal["exact", "page", "copy"]
Window = Literal["auto", "dynamic", "direct"]
Memory = Literal["auto", "fixed", "remap"]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("not a power of two")
    return value


CopyThreshold = Annotated[int, Field(ge=0, le=8192)]
BouncePages = Annotated[int, Field(ge=16, le=65536)]
LargeChains = Annotated[int, Field(ge=1, le=1024)]
QueueSize = Annotated[
    int, Field(ge=4, le=1024, description="a power of two from 4 to 1024"), AfterValidator(_power_of_two)
]
# YAML has lists where the models have tuples: only those fields are converted.
Cpus = Annotated[
    tuple[Annotated[int, Field(ge=0, le=4095, description="a processor's number, 0 to 4095")], ...],
    Strict(False),
    Field(description="a list of processors' numbers"),
]


class Log(Section):
    """How much is logged, and in which form."""

    level: Level = "info"
    format: Format = "auto"


class Workers(Section):
    """The data plane's threads. `poll_us`: microseconds of polling before a thread sleeps."""

    count: Annotated[int, Field(ge=1, le=64)] = 1
    poll_us: Annotated[int, Field(ge=0, le=10000)] = 50
    cpus: Cpus = ()


class Policy(Section):
    """How one device's buffers reach its backend. `copy_threshold` in bytes."""

    placement: Placement = "exact"
    copy_threshold: CopyThreshold = 0
    window: Window = "auto"
    clear: bool = True
    memory: Memory = "auto"
    bounce_pages: BouncePages = 512
    large_chains: LargeChains = 16

    def memory_is_fixed(self, hypervisor: str) -> bool:
        """Whether the same pages stay behind the guest's frames (no ballooning)."""
        return self.memory == "fixed" or (self.memory == "auto" and hypervisor == "sim")


class Limits(Section):
    """The limits that the mediator enforces."""

    devices: Annotated[int, Field(ge=1, le=1024)] = 64
    queues_per_device: Annotated[int, Field(ge=1, le=64)] = 16
    queue_size_max: QueueSize = 256
    drain_timeout_ms: Annotated[int, Field(ge=10, le=60000)] = 5000
    memory_gib_max: Annotated[int, Field(ge=1, le=4096)] = 64


class Override(Section):
    """Changes to the defaults for some devices. None means any frontend, any device, or that default unchanged."""

    frontend: Annotated[int, Field(ge=0, le=DOMID_MAX)] | None = None
    device: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    placement: Placement | None = None
    copy_threshold: CopyThreshold | None = None
    window: Window | None = None
    clear: bool | None = None
    memory: Memory | None = None
    bounce_pages: BouncePages | None = None
    large_chains: LargeChains | None = None

    def applies_to(self, frontend_domid: int, device_id: int) -> bool:
        """Whether the override applies to that device."""
        return self.frontend in (None, frontend_domid) and self.device in (None, device_id)


class Config(Section):
    """The whole file; every key has a default, so an empty file is a valid one."""

    log: Log = Log()
    workers: Workers = Workers()
    defaults: Policy = Policy()
    limits: Limits = Limits()
    overrides: Annotated[tuple[Override, ...], Strict(False), Field(description="a list of mappings")] = ()

    def policy_for(self, frontend_domid: int, device_id: int) -> Policy:
        """The defaults with every override that applies to that device; later entries override earlier ones."""
        policy = self.defaults
        for override in self.overrides:
            if override.applies_to(frontend_domid, device_id):
                changes = override.model_dump(exclude_none=True, exclude={"frontend", "device"})
                policy = policy.model_copy(update=changes)
        return policy


def load(path: Path | str) -> Config:
    """Loads a configuration file. ConfigError lists every mistake in it, one sentence each."""
    return models.load(Config, Path(path))
