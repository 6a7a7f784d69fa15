# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads a YAML file into frozen models, and names every mistake in it at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from xen_shadowvq import yaml_source
from xen_shadowvq.errors import SHOWN_MAX, ConfigError, shown
from xen_shadowvq.yaml_source import Loc

NUMBER_BITS_SHOWN = 128

Schema = Mapping[str, Any]


class Section(BaseModel):
    """A mapping that has no other keys than these, with values of exactly these types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


M = TypeVar("M", bound=Section)


def load(model: type[M], path: Path, check: Callable[[M], Iterable[tuple[Loc, str]]] = lambda _: ()) -> M:
    """
    Loads a file. `check` yields a key and a sentence for each value that does not go with others. ConfigError lists
    every mistake, one sentence each with file, line, key, and what was expected.
    """
    source = yaml_source.load(path)
    try:
        loaded = model.model_validate(source.value)
        mistakes = [(loc, f"{_key_path(loc)}: {what}") for loc, what in check(loaded)]
    except ValidationError as failure:
        schema = model.model_json_schema()  # the models themselves tell what each key takes
        mistakes = [(error["loc"], _sentence(schema, error)) for error in failure.errors(include_url=False)]
    if mistakes:
        raise ConfigError(*(f"{_place(path, source.line_of(loc))}: {sentence}" for loc, sentence in mistakes))
    return loaded


def _place(path: Path, line: int | None) -> str:
    return f"{path}:{line}" if line is not None else str(path)


def _sentence(schema: Schema, error: ErrorDetails) -> str:
    key = _key_path(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: no such key{_did_you_mean(schema, error['loc'])}"
    declared = _declared(schema, error["loc"])
    expected = _describe(declared) if declared else error["msg"]
    if error["type"] == "missing":
        return f"{key}: is missing, expected {expected}"
    return f"{key}: got {_given(error['input'])}, expected {expected}"


def _key_path(loc: Loc) -> str:
    text = ""
    for part in loc:
        name = part if isinstance(part, int) or len(part) <= SHOWN_MAX else f"{part[:SHOWN_MAX]}..."
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else str(name)
    return text or "the file"


def _given(value: object) -> str:
    """The value as its author would recognise it: YAML has null, true and false."""
    match value:
        case None | bool():
            return "null" if value is None else str(value).lower()
        case dict():
            return "a mapping"
        case list() | set():
            return "a list" if isinstance(value, list) else "a set"
        case int() if value.bit_length() > NUMBER_BITS_SHOWN:
            return f"a number of {value.bit_length()} bits"  # Python itself does not write the longest out
        case _:
            return shown(value) if isinstance(value, str) else str(value)[:SHOWN_MAX]


def _did_you_mean(schema: Schema, loc: Loc) -> str:
    names = list(_declared(schema, loc[:-1]).get("properties", ()))
    close = difflib.get_close_matches(str(loc[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; the keys are {', '.join(names)}"


def _declared(schema: Schema, loc: Loc) -> Schema:
    """The JSON schema of the value at a key path, empty where nothing is declared."""
    found = schema
    for part in loc:
        below = found.get("items", {}) if isinstance(part, int) else found.get("properties", {}).get(part, {})
        found = _resolved(schema, below)
    return found


def _resolved(schema: Schema, part: Schema) -> Schema:
    return cast("Schema", schema["$defs"][part["$ref"].rpartition("/")[2]]) if "$ref" in part else part


def _describe(schema: Schema) -> str:
    """What a value must be, in words."""
    if "anyOf" in schema:
        return " or ".join(_describe(choice) for choice in schema["anyOf"])
    if "description" in schema and schema["type"] != "object":
        return str(schema["description"])
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "object":
        return "a mapping of keys to values"
    if schema["type"] == "integer":
        return f"a whole number from {schema['minimum']} to {schema['maximum']}"
    return str(schema["type"])
