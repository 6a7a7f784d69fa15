# SPDX-License-Identifier: GPL-2.0-or-later
"""nodes.yaml, loaded and checked: a mistake in the single source must not become a mistake everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import yaml

from xenstore_schema.spec import NUMBER_MAX, Directory, Kind, Node, State, Writer

SOURCE = Path(__file__).with_name("nodes.yaml")

_NODE_KEYS = frozenset(Node.__dataclass_fields__)
_DIRECTORY_KEYS = {"name", "path", "owner", "doc"}
_SCALARS = {
    "default": str,
    "initial": str,
    "min": int,
    "max": int,
    "max_bytes": int,
    "count_max": int,
    "may_be_empty": bool,
    "unit": str,
    "doc": str,
}
_REQUIRABLE = (State.Initialising, State.InitWait, State.Initialised, State.Connected)
_NODE_NAME = re.compile(r"[a-z][a-z0-9-]*|queue-\{n\}/[a-z][a-z0-9-]*")
_DIRECTORY_NAME = re.compile(r"[a-z]+\.(back|front|record)")


class SchemaError(Exception):
    """nodes.yaml is wrong; one line for each mistake."""


@dataclass(frozen=True)
class Schema:
    """All that nodes.yaml says."""

    version: int
    directories: tuple[Directory, ...]


def load(path: Path = SOURCE) -> Schema:
    """Loads nodes.yaml; SchemaError lists every mistake in it."""
    return build(yaml.safe_load(path.read_text(encoding="utf-8")))


def build(source: object) -> Schema:
    """A schema from the parsed YAML; SchemaError lists every mistake in it."""
    if not isinstance(source, dict) or set(source) != {"version", "directories", "nodes"}:
        raise SchemaError("expected a mapping with exactly: version, directories, nodes")
    problems: list[str] = []
    version = source["version"]
    if type(version) is not int or version < 1:
        problems.append(f"version: {version!r} is not a positive number")
    tables: dict[str, tuple[dict[str, str], list[Node[Any]]]] = {}
    for entry in source["directories"]:
        wrong = list(_directory_problems(entry, tables))
        problems += wrong
        if not wrong:
            tables[entry["name"]] = (entry, [])
    for entry in source["nodes"]:
        wrong = list(_node_problems(entry, tables))
        if not wrong:
            node = _node(entry)
            wrong = list(_value_problems(node))
            tables[node.dir][1].append(node)
        problems += [f"{_where(entry)}: {problem}" for problem in wrong]
    for name, (entry, nodes) in tables.items():
        problems += [f"{name}: {problem}" for problem in _table_problems(entry, nodes)]
    if problems:
        raise SchemaError("\n".join(problems))
    return Schema(version, tuple(_directory(entry, nodes) for entry, nodes in tables.values()))


def _is_record(name: str) -> bool:
    """The toolstack's own notes about a device: no half of a pair, so nobody's state stands there."""
    return name.endswith(".record")


def _where(entry: object) -> str:
    return f"{entry.get('dir')} {entry.get('name')}" if isinstance(entry, dict) else repr(entry)


def _directory(entry: Mapping[str, str], nodes: list[Node[Any]]) -> Directory:
    return Directory(entry["name"], entry["path"], cast(Writer, entry["owner"]), tuple(nodes), entry["doc"])


def _directory_problems(entry: object, tables: Mapping[str, object]) -> Iterator[str]:
    if not isinstance(entry, dict) or set(entry) != _DIRECTORY_KEYS:
        yield f"directory {entry!r}: expected exactly the keys {', '.join(sorted(_DIRECTORY_KEYS))}"
        return
    name, path = entry["name"], entry["path"]
    if not _DIRECTORY_NAME.fullmatch(name) or name in tables:
        yield f"directory {name!r}: not a fresh name like virtio.back"
    whose = "[a-z]+" if _is_record(name) else entry["owner"]
    if not re.fullmatch(rf"/local/domain/\{{{whose}\}}(/[a-z]+)+(/\{{[a-z]+\}})+", path):
        yield f"directory {name}: path {path!r} is not the owner's /local/domain/..., then ids"
    if entry["owner"] not in get_args(Writer):
        yield f"directory {name}: no such owner: {entry['owner']!r}"


def _node_problems(entry: object, tables: Mapping[str, tuple[object, list[Node[Any]]]]) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield "expected a mapping"
        return
    for key in sorted(set(entry) - _NODE_KEYS):
        yield f"unknown key {key!r}"
    missing = {"dir", "name", "type", "writer", "doc"} - set(entry)
    if missing:
        yield f"missing: {', '.join(sorted(missing))}"
        return
    if entry["dir"] not in tables:
        yield "no such directory"
    elif any(node.name == entry["name"] for node in tables[entry["dir"]][1]):
        yield "defined twice"
    if not _NODE_NAME.fullmatch(str(entry["name"])):
        yield "not a node name"
    for key, allowed in (("type", Kind), ("writer", Writer)):
        if key in entry and entry[key] not in get_args(allowed):
            yield f"{key} {entry[key]!r} is none of {', '.join(get_args(allowed))}"
    if "required_from" in entry and entry["required_from"] not in [state.name for state in _REQUIRABLE]:
        yield f"required_from {entry['required_from']!r} is no state on the way to Connected"
    for key, kind in _SCALARS.items():
        if key in entry and type(entry[key]) is not kind:
            yield f"{key} {entry[key]!r} is no {kind.__name__}"


def _node(entry: Mapping[str, Any]) -> Node[Any]:
    fields = dict(entry)
    if "required_from" in fields:
        fields["required_from"] = State[fields["required_from"]]
    return Node(**{**fields, "choices": tuple(fields.get("choices", ()))})


def _value_problems(node: Node[Any]) -> Iterator[str]:
    number = node.type in NUMBER_MAX and node.type != "state"
    if (node.min is not None or node.max is not None) and not number:
        yield f"min and max have no meaning for {node.type}"
    elif number and not 0 <= node.low <= node.high <= NUMBER_MAX[node.type]:
        yield f"{node.low} to {node.high} is no range of {node.type}"
    if (node.type in ("text", "hex", "json")) != (node.max_bytes is not None):
        yield "max_bytes belongs to text, hex and json, and they need it"
    if (node.type == "choice") != bool(node.choices):
        yield "choices belongs to choice, which needs it"
    if (node.type == "u32s") != (node.count_max is not None):
        yield "count_max belongs to u32s, which needs it"
    if node.may_be_empty and node.type != "text":
        yield "may_be_empty belongs to text"
    if node.initial is not None and node.writer == "toolstack":
        yield "initial belongs to nodes that others than the toolstack write"
    if node.initial is not None and node.value_of(node.initial) is None:
        yield f"initial {node.initial!r} is not {node.expected}"
    if node.default is not None and node.required_from is not None:
        yield "a required node has no default"
    if node.default is not None and node.value_of(node.default) is None:
        yield f"default {node.default!r} is not {node.expected}"
    if not node.doc.endswith("."):
        yield "doc is no sentence"


def _table_problems(entry: Mapping[str, str], nodes: list[Node[Any]]) -> Iterator[str]:
    by_name = {node.name: node for node in nodes}
    state = by_name.get("state")
    if not _is_record(entry["name"]) and (state is None or state.type != "state" or state.writer != entry["owner"]):
        yield "needs a node `state` that its owner writes"
    if any(node.indices for node in nodes) and "num-queues" not in by_name:
        yield "queue nodes without num-queues"
    for node in nodes:
        if node.writer not in ("toolstack", entry["owner"]):
            yield f"{node.name}: only the toolstack and the owner may write here, not the {node.writer}"
