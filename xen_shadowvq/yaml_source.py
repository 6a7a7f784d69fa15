# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads YAML files as an operator needs it: remembers the lines, and refuses a key that is given twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from xen_shadowvq.errors import ConfigError, shown

FILE_BYTES_MAX = 1 << 20

Loc = tuple[int | str, ...]


@dataclass(frozen=True)
class YamlSource:
    """What a file said, and on which lines (from 1)."""

    value: Any
    lines: Mapping[Loc, int]

    def line_of(self, loc: Loc) -> int | None:
        """The line of a key, or of the nearest thing around it."""
        for length in range(len(loc), -1, -1):
            if loc[:length] in self.lines:
                return self.lines[loc[:length]]
        return None


class _Loader(yaml.SafeLoader):
    """
    PyYAML leaves scalars to Python's conversions, and lets through whatever those raise: here that is bad YAML, too.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as failure:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            what = shown(node.value) if isinstance(node, yaml.ScalarNode) else "this"
            raise yaml.constructor.ConstructorError(
                problem=f"{what} looks like a value of type {kind}, but is not one", problem_mark=node.start_mark
            ) from failure


def load(path: Path) -> YamlSource:
    """
    Reads a YAML file of one document; an empty one is an empty mapping. ConfigError names the file and the
    line: it cannot be read, is not YAML, uses anchors, or has a key that is not text or is given twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as failure:
        raise ConfigError(f"{path}: {failure.strerror}") from failure
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: more than {FILE_BYTES_MAX} bytes, expected a configuration file")
    loader = None
    try:
        loader = _Loader(content.decode("utf-8"))
        root = loader.get_single_node()
        if root is None:
            return YamlSource({}, {})
        lines: dict[Loc, int] = {(): root.start_mark.line + 1}
        problems = list(_survey(root, (), lines, set()))
        if problems:
            raise ConfigError(*(f"{path}:{line}: {problem}" for line, problem in problems))
        return YamlSource(loader.construct_document(root), lines)
    except UnicodeDecodeError as failure:
        line = content.count(b"\n", 0, failure.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text") from failure
    except yaml.MarkedYAMLError as failure:
        mark = failure.problem_mark or failure.context_mark
        place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(f"{place}: not YAML: {failure.problem or failure.context}") from failure
    except yaml.YAMLError as failure:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(failure).split())}") from failure
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except (ValueError, OverflowError) as failure:  # from the scanner: an escape that is no character, say
        place = str(path) if loader is None else f"{path}:{loader.line + 1}"
        raise ConfigError(f"{place}: not YAML: {failure}") from failure


def _survey(node: yaml.Node, loc: Loc, lines: dict[Loc, int], seen: set[int]) -> Iterator[tuple[int, str]]:
    """Notes the line of all below `node`; yields (line, problem) for what YAML allows and we do not."""
    if id(node) in seen:
        yield node.start_mark.line + 1, "anchors and aliases are not supported"
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*loc, index)] = item.start_mark.line + 1
            yield from _survey(item, (*loc, index), lines, seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                yield line, "expected a key that is text"
                continue
            here = (*loc, key.value)
            if here in lines:
                yield line, f"key {shown(key.value)} is given twice, first on line {lines[here]}"
            lines.setdefault(here, line)
            yield from _survey(value, here, lines, seen)
