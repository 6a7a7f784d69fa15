# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node and a directory of nodes are, and how they are read from an untrusted peer."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar, cast

from xenstore_schema import parse
from xenstore_schema.errors import PeerProtocolError

T = TypeVar("T")
U = TypeVar("U")

Writer = Literal["toolstack", "frontend", "mediator", "backend"]
Kind = Literal["state", "domid", "bool", "u8", "u16", "u32", "u64", "u32s", "path", "text", "hex", "json", "choice"]
RingPart = Literal["desc", "avail", "used"]
Reader = Callable[[str], str | None]  # the text of the node at a path, None when there is no such node

DOMID_MAX = 0x7FEF  # below DOMID_FIRST_RESERVED
PAGE_SIZE = 4096

NUMBER_MAX: Mapping[str, int] = {
    "u8": 2**8 - 1,
    "u16": 2**16 - 1,
    "u32": 2**32 - 1,
    "u64": 2**64 - 1,
    "domid": DOMID_MAX,
    "state": 8,
}


class State(enum.IntEnum):
    """The XenBus states (Xen public headers, io/xenbus.h), by their numbers in XenStore."""

    Unknown = 0
    Initialising = 1
    InitWait = 2
    Initialised = 3
    Connected = 4
    Closing = 5
    Closed = 6
    Reconfiguring = 7
    Reconfigured = 8


# How far a side has got with writing its directory. A side that closes may have removed its nodes already.
_PROGRESS = {
    State.Initialising: 1,
    State.InitWait: 2,
    State.Initialised: 3,
    State.Connected: 4,
    State.Reconfiguring: 4,
    State.Reconfigured: 4,
}


def ring_pages(part: RingPart, size: int) -> int:
    """Pages that one part of a split ring of `size` descriptors takes (virtio 2.7)."""
    ring_bytes = {"desc": 16 * size, "avail": 6 + 2 * size, "used": 6 + 8 * size}[part]
    return -(-ring_bytes // PAGE_SIZE)


RingRefs = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def split_ring_refs(refs: tuple[int, ...], size: int) -> RingRefs | None:
    """
    A queue's `ring-refs`, split by the part of the ring of `size` descriptors whose pages they are: desc, avail, used.
    None: there are more or fewer of them than those parts have pages.
    """
    desc, avail, used = (ring_pages(part, size) for part in ("desc", "avail", "used"))
    if len(refs) != desc + avail + used:
        return None
    return refs[:desc], refs[desc : desc + avail], refs[desc + avail :]


@dataclass(frozen=True)
class Node(Generic[T]):
    """One node of nodes.yaml; `T` is what its text is read as."""

    dir: str
    name: str
    type: Kind
    writer: Writer
    required_from: State | None = None
    default: str | None = None
    min: int | None = None
    max: int | None = None
    max_bytes: int | None = None
    count_max: int | None = None
    choices: tuple[str, ...] = ()
    may_be_empty: bool = False
    initial: str | None = None
    unit: str | None = None
    doc: str = ""

    @property
    def low(self) -> int:
        """The smallest number allowed."""
        return self.min if self.min is not None else 0

    @property
    def high(self) -> int:
        """The largest number allowed."""
        return self.max if self.max is not None else NUMBER_MAX[self.type]

    @property
    def bytes_max(self) -> int:
        """The most bytes that a text, hex or json value may stand for."""
        return self.max_bytes if self.max_bytes is not None else parse.TEXT_BYTES_MAX

    @property
    def indices(self) -> tuple[str, ...]:
        """Which indices the name has: `n`, that of a queue, or none."""
        return ("n",) if "{n}" in self.name else ()

    @property
    def expected(self) -> str:
        """What the text must be, in words, for error messages and the protocol page."""
        return _FORMS[self.type][0](self)

    def relative(self, n: int | None = None) -> str:
        """The node's name below its directory, for queue `n` where the name has that."""
        if (n is not None) != bool(self.indices):
            raise ValueError(f"{self.dir} {self.name} takes {self.indices or 'no index'}, not {n}")
        return self.name.format(n=n)

    def path(self, dir_path: str, n: int | None = None) -> str:
        """The node's path below `dir_path`."""
        return f"{dir_path}/{self.relative(n)}"

    def parse(self, untrusted: str, path: str) -> T:
        """The value of the text found at `path`; PeerProtocolError when it is not what `expected` says."""
        value = self.value_of(untrusted)
        if value is None:
            raise PeerProtocolError(path, untrusted, self.expected)
        return cast(T, value)

    def read(self, reader: Reader, dir_path: str, n: int | None = None) -> T | None:
        """Reads the node, once. An absent node is its default, or None. PeerProtocolError as from `parse`."""
        path = self.path(dir_path, n)
        untrusted = reader(path)
        if untrusted is None:
            untrusted = self.default
        return None if untrusted is None else self.parse(untrusted, path)

    def format(self, value: T) -> str:
        """The text for a value of our own; ValueError when the protocol does not allow it."""
        match value:
            case bool() | int():
                text = str(int(value))
            case bytes():
                text = value.hex()
            case tuple():
                text = " ".join(map(str, value))
            case dict():
                text = json.dumps(value, separators=(",", ":"))
            case _:
                text = str(value)
        if self.value_of(text) != value:
            raise ValueError(f"{self.dir} {self.name}: {value!r} is not {self.expected}")
        return text

    def value_of(self, untrusted: str) -> object:
        """The value of a text, or None when the node does not allow it."""
        return _FORMS[self.type][1](self, untrusted)


def _state(untrusted: str) -> State | None:
    number = parse.decimal(untrusted, 0, NUMBER_MAX["state"])
    return None if number is None else State(number)


# For each kind: what the text must be, in words, and its strict reader.
_Form = tuple[Callable[[Node[Any]], str], Callable[[Node[Any], str], object]]
_NUMBER: _Form = (
    lambda node: f"a number from {node.low} to {node.high} in decimal",
    lambda node, untrusted: parse.decimal(untrusted, node.low, node.high),
)
_FORMS: Mapping[Kind, _Form] = {
    "u8": _NUMBER,
    "u16": _NUMBER,
    "u32": _NUMBER,
    "u64": _NUMBER,
    "domid": (lambda node: f"a domain id, {node.low} to {node.high} in decimal", _NUMBER[1]),
    "state": (lambda _: "a XenBus state, 0 to 8", lambda _, untrusted: _state(untrusted)),
    "bool": (lambda _: "0 or 1", lambda _, untrusted: parse.boolean(untrusted)),
    "path": (lambda _: "an absolute path", lambda _, untrusted: parse.path(untrusted)),
    "text": (
        lambda node: f"{0 if node.may_be_empty else 1} to {node.bytes_max} printable ASCII characters",
        lambda node, untrusted: "" if node.may_be_empty and not untrusted else parse.text(untrusted, node.bytes_max),
    ),
    "u32s": (
        lambda node: f"1 to {node.count_max} numbers from 0 to {NUMBER_MAX['u32']} in decimal, separated by blanks",
        lambda node, untrusted: parse.u32s(untrusted, node.count_max or 0),
    ),
    "hex": (
        lambda node: f"1 to {node.bytes_max} bytes as lower-case hexadecimal pairs",
        lambda node, untrusted: parse.hexadecimal(untrusted, node.bytes_max),
    ),
    "json": (
        lambda node: f"a JSON object of at most {node.bytes_max} bytes",
        lambda node, untrusted: parse.json_object(untrusted, node.bytes_max),
    ),
    "choice": (
        lambda node: " or ".join(node.choices),
        lambda node, untrusted: untrusted if untrusted in node.choices else None,
    ),
}


class Values:
    """What a directory held: values by node, each of the node's own type."""

    def __init__(self, found: Mapping[tuple[str, int | None], object]) -> None:
        self._found = found

    def __getitem__(self, node: Node[U]) -> U:
        """The value of a node without indices; KeyError when it was absent and has no default."""
        return self.at(node)

    def at(self, node: Node[U], n: int | None = None) -> U:
        """The value of a node of queue `n`; KeyError as above."""
        return cast(U, self._found[node.name, n])

    def get(self, node: Node[U], n: int | None = None) -> U | None:
        """The value of a node, or None when it was absent."""
        return cast("U | None", self._found.get((node.name, n)))


@dataclass(frozen=True)
class Directory:
    """
    A directory of nodes.yaml: `path` has its ids in braces, `owner` is the side whose `state` it has, if it has one.
    """

    name: str
    path: str
    owner: Writer
    nodes: tuple[Node[Any], ...]
    doc: str = ""

    def find(self, name: str) -> Node[Any] | None:
        """The node of that name, e.g. `queue-{n}/size`."""
        return next((node for node in self.nodes if node.name == name), None)

    def locate(self, path: str) -> tuple[dict[str, int], str] | None:
        """
        Takes apart a path (say, of a watch event) that is in such a directory: its ids, and the name below it ("" for
        the directory itself). None if it is elsewhere.
        """
        match = self._pattern.fullmatch(path)
        if match is None:
            return None
        ids = {key: int(text) for key, text in match.groupdict().items() if key != "below"}
        return ids, match["below"] or ""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        ids = re.sub(r"\{(\w+)\}", r"(?P<\1>0|[1-9][0-9]{0,9})", self.path)
        return re.compile(ids + r"(?:/(?P<below>.*))?", re.ASCII)


def read_directory(
    reader: Reader, directory: Directory, dir_path: str, state: State, queues_max: int | None = None
) -> Values:
    """
    Reads every node of a directory whose owner was seen in `state`, each once.

    Queue nodes are read for as many queues as the directory's own `num-queues` says (none while it is
    absent). Let `reader` read inside one transaction where the nodes must agree. PeerProtocolError: a value
    is not what its node allows, a node is missing that `state` requires, or there are more than `queues_max`
    queues.
    """
    found: dict[tuple[str, int | None], object] = {}
    progress = _PROGRESS.get(state, 1)

    def take(node: Node[Any], n: int | None = None) -> None:
        value = state if node.type == "state" else node.read(reader, dir_path, n)
        if value is not None:
            found[node.name, n] = value
        elif node.required_from is not None and _PROGRESS[node.required_from] <= progress:
            expected = f"{node.expected} (required in state {state.name})"
            raise PeerProtocolError(node.path(dir_path, n), None, expected)

    for node in directory.nodes:
        if not node.indices:
            take(node)
    queues = cast(int, found.get(("num-queues", None), 0))
    if queues_max is not None and queues > queues_max:
        raise PeerProtocolError(f"{dir_path}/num-queues", str(queues), f"at most {queues_max} queues")
    for n in range(queues):
        for node in directory.nodes:
            if node.indices:
                take(node, n)
    return Values(found)
