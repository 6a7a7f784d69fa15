# SPDX-License-Identifier: GPL-2.0-or-later
"""The mediator's configuration: a YAML file into frozen models, with every mistake in it named at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError
from pydantic_core import ErrorDetails

from xen_shadowvq import yaml_source
from xen_shadowvq.errors import SHOWN_MAX, ConfigError, shown
from xen_shadowvq.log import Format, Level
from xenstore_schema.spec import DOMID_MAX

Placement = Literal["exact", "page", "copy"]
Window = Literal["auto", "dynamic", "direct"]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("not a power of two")
    return value


CopyThreshold = Annotated[int, Field(ge=0, le=8192)]
BouncePages = Annotated[int, Field(ge=16, le=65536)]
LargeChains = Annotated[int, Field(ge=1, le=1024)]
QueueSize = Annotated[
    int, Field(ge=2, le=1024, description="a power of two from 2 to 1024"), AfterValidator(_power_of_two)
]
# YAML has lists and text where the models have tuples and paths: only these two fields are converted.
Cpus = Annotated[
    tuple[Annotated[int, Field(ge=0, le=4095, description="a processor's number, 0 to 4095")], ...],
    Strict(False),
    Field(description="a list of processors' numbers"),
]
Directory = Annotated[Path, Strict(False), Field(description="a path")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Log(_Section):
    """How much is logged, and in which form."""

    level: Level = "info"
    format: Format = "auto"


class Workers(_Section):
    """The data plane's threads. `poll_us`: microseconds of polling before a thread sleeps."""

    count: Annotated[int, Field(ge=1, le=64)] = 1
    poll_us: Annotated[int, Field(ge=0, le=10000)] = 50
    cpus: Cpus = ()


class Policy(_Section):
    """How one device's buffers reach its backend. `copy_threshold` in bytes."""

    placement: Placement = "exact"
    copy_threshold: CopyThreshold = 0
    window: Window = "auto"
    bounce_pages: BouncePages = 512
    large_chains: LargeChains = 16


class Limits(_Section):
    """What the mediator refuses to go beyond."""

    devices: Annotated[int, Field(ge=1, le=1024)] = 64
    queues_per_device: Annotated[int, Field(ge=1, le=64)] = 16
    queue_size_max: QueueSize = 256
    drain_timeout_ms: Annotated[int, Field(ge=10, le=60000)] = 5000
    memory_gib_max: Annotated[int, Field(ge=1, le=4096)] = 64


class Override(_Section):
    """Changes to the defaults for some devices; None: any frontend, any device, that default unchanged."""

    frontend: Annotated[int, Field(ge=0, le=DOMID_MAX)] | None = None
    device: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    placement: Placement | None = None
    copy_threshold: CopyThreshold | None = None
    window: Window | None = None
    bounce_pages: BouncePages | None = None
    large_chains: LargeChains | None = None

    def applies_to(self, frontend_domid: int, device_id: int) -> bool:
        """Whether the override is meant for that device."""
        return self.frontend in (None, frontend_domid) and self.device in (None, device_id)


class Config(_Section):
    """The whole file; every key has a default, so an empty file is a valid one."""

    hypervisor: Literal["sim", "xen", "auto"] = "auto"
    sim_directory: Directory | None = None
    log: Log = Log()
    workers: Workers = Workers()
    defaults: Policy = Policy()
    limits: Limits = Limits()
    overrides: Annotated[tuple[Override, ...], Strict(False), Field(description="a list of mappings")] = ()

    def policy_for(self, frontend_domid: int, device_id: int) -> Policy:
        """The defaults with every override that applies to that device, later ones over earlier ones."""
        policy = self.defaults
        for override in self.overrides:
            if override.applies_to(frontend_domid, device_id):
                changes = override.model_dump(exclude_none=True, exclude={"frontend", "device"})
                policy = policy.model_copy(update=changes)
        return policy


def load(path: Path | str) -> Config:
    """Loads a configuration file. ConfigError lists all that is wrong with it, one sentence a mistake."""
    source = yaml_source.load(Path(path))
    try:
        return Config.model_validate(source.value)
    except ValidationError as failure:
        problems = []
        for error in failure.errors(include_url=False):
            line = source.line_of(error["loc"])
            place = f"{path}:{line}" if line is not None else str(path)
            problems.append(f"{place}: {_sentence(error)}")
        raise ConfigError(*problems) from None


# What each key takes is told from the models themselves, by way of their JSON schema.
_SCHEMA: Mapping[str, Any] = Config.model_json_schema()


def _sentence(error: ErrorDetails) -> str:
    key = _key_path(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: no such key{_did_you_mean(error['loc'])}"
    declared = _declared(error["loc"])
    expected = _describe(declared) if declared else error["msg"]
    return f"{key}: got {_given(error['input'])}, expected {expected}"


def _key_path(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


def _given(value: object) -> str:
    """The value as its author may recognise it: YAML has null, true and false."""
    match value:
        case None | bool():
            return "null" if value is None else str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return shown(value) if isinstance(value, str) else str(value)[:SHOWN_MAX]


def _did_you_mean(loc: tuple[int | str, ...]) -> str:
    names = list(_declared(loc[:-1]).get("properties", ()))
    close = difflib.get_close_matches(str(loc[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"


def _declared(loc: tuple[int | str, ...]) -> Mapping[str, Any]:
    """The JSON schema of the value at a key path, empty where nothing is declared."""
    found = _resolved(_SCHEMA)
    for part in loc:
        found = _resolved(
            found.get("items", {}) if isinstance(part, int) else found.get("properties", {}).get(part, {})
        )
    return found


def _resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in schema:
        return cast("Mapping[str, Any]", _SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    return schema


def _describe(schema: Mapping[str, Any]) -> str:
    """What a value must be, in words."""
    if "anyOf" in schema:
        return " or ".join(_describe(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "object":
        return "a mapping of keys to values"
    if "description" in schema:
        return str(schema["description"])
    if schema["type"] == "integer":
        return f"a whole number from {schema['minimum']} to {schema['maximum']}"
    return str(schema["type"])
