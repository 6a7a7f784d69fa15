# SPDX-License-Identifier: GPL-2.0-or-later
"""Strict reading: what each kind of node takes, what it refuses, and how a directory is read."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xen_shadowvq.errors import PeerProtocolError
from xenstore_schema import Node, State, nodes, read_directory
from xenstore_schema.nodes import SvqBack, SvqFront, VirtioBack, VirtioFront
from xenstore_schema.spec import ring_pages, split_ring_refs

ACCEPTED: list[tuple[Node[Any], str, object]] = [
    (VirtioBack.ONLINE, "0", False),
    (VirtioBack.ONLINE, "1", True),
    (VirtioBack.STATE, "0", State.Unknown),
    (VirtioBack.STATE, "8", State.Reconfigured),
    (VirtioBack.FRONTEND_ID, "0", 0),
    (VirtioBack.FRONTEND_ID, "32751", 0x7FEF),
    (VirtioBack.FEATURES, "18446744073709551615", 2**64 - 1),
    (VirtioFront.STATUS, "255", 255),
    (VirtioFront.NUM_QUEUES, "64", 64),
    (VirtioBack.PLACEMENT, "page", "page"),
    (VirtioBack.FRONTEND, "/local/domain/3/device/virtio/0", "/local/domain/3/device/virtio/0"),
    (VirtioBack.CONFIG, "00ff", b"\x00\xff"),
    (VirtioBack.CONFIG, "ab" * 256, b"\xab" * 256),
    (VirtioBack.ERROR, "queue 0: desc 7 loops", "queue 0: desc 7 loops"),
    (VirtioBack.STATS, '{"nonce":1}', {"nonce": 1}),
    (VirtioBack.ERROR, "", ""),
    (SvqBack.SERIAL, "S" * 20, "S" * 20),
    (SvqFront.QUEUE_RING_REFS, "0", (0,)),
    (SvqFront.QUEUE_RING_REFS, "8 9 4294967295", (8, 9, 2**32 - 1)),
    (SvqFront.QUEUE_RING_REFS, "1 2 3 4 5 6 7 8", (1, 2, 3, 4, 5, 6, 7, 8)),
]

REFUSED: list[tuple[Node[Any], str]] = [
    *(
        (SvqFront.QUEUE_RING_REFS, text)
        for text in (
            "",
            " ",
            "1 ",
            " 1",
            "1  2",
            "1,2",
            "1\t2",
            "1\n2",
            "01 2",
            "1 -2",
            "1 0x2",
            "4294967296",
            "1 \u0661",
            "1 2 3 4 5 6 7 8 9",
            "1 " * 4096,
            "9" * 4096,
        )
    ),
    *((VirtioBack.ONLINE, text) for text in ("", "2", "01", "true", " 1", "1\n", "yes")),
    *((VirtioBack.STATE, text) for text in ("9", "-1", "", "4 ", "InitWait")),
    *((VirtioBack.FRONTEND_ID, text) for text in ("32752", "65535", "-1", "")),
    *(
        (VirtioFront.NUM_QUEUES, text)
        for text in (
            "0",
            "65",
            "",
            " 1",
            "1 ",
            "+1",
            "-1",
            "01",
            "0x1",
            "1e1",
            "1.0",
            "1_0",
            "\u0661",
            "1\x00",
            "9" * 4096,
        )
    ),
    *((VirtioBack.FEATURES, text) for text in ("18446744073709551616", "9" * 21, "-0")),
    *((VirtioBack.PLACEMENT, text) for text in ("", "Exact", "exact ", "lazy")),
    *((VirtioBack.FRONTEND, text) for text in ("", "/", "local", "/a\n", "/\x00", "/\xe4", "/" + "a" * 3072)),
    *((VirtioBack.CONFIG, text) for text in ("", "0", "0g", "AB", "00 ff", "0x00", "00" * 257, "00\n")),
    *((VirtioBack.ERROR, text) for text in ("a\nb", "\x1b[2J", "\x7f", "e" * 1025, "\xfc")),
    *(
        (VirtioBack.STATS, text)
        for text in ("", "1", "[]", "{", '{"a":NaN}', "[" * 2000, '{"a":' * 400, "{}" + " " * 3072)
    ),
    (VirtioBack.STATS, '{"a": ' + "1" * 3072 + "}"),
    (SvqBack.SERIAL, "S" * 21),
]


@pytest.mark.parametrize(("node", "text", "value"), ACCEPTED)
def test_accepted(node: Node[Any], text: str, value: object) -> None:
    """Text that the protocol allows is read as its value, and that value is written as the same text."""
    parsed = node.parse(text, "/x")
    assert parsed == value
    assert type(parsed) is type(value)
    assert node.format(parsed) == text


@pytest.mark.parametrize(("node", "text"), REFUSED)
def test_refused(node: Node[Any], text: str) -> None:
    """Anything else is the peer's mistake: the error names the path and what was expected, in brief."""
    with pytest.raises(PeerProtocolError) as caught:
        node.parse(text, "/local/domain/3/x")
    assert caught.value.node == "/local/domain/3/x"
    assert caught.value.untrusted_value == text
    assert caught.value.expected == node.expected
    assert len(str(caught.value)) < 500
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


ALL_NODES = [node for directory in nodes.DIRECTORIES for node in directory.nodes]


@given(st.sampled_from(ALL_NODES), st.text(max_size=80))
def test_any_text_is_read_or_refused(node: Node[Any], text: str) -> None:
    """Whatever stands in a node, the answer is a value that is written the same way, or PeerProtocolError."""
    try:
        value = node.parse(text, "/x")
    except PeerProtocolError:
        return
    assert node.type == "json" or node.format(value) == text


@given(
    st.sampled_from([node for node in ALL_NODES if node.type in ("u8", "u16", "u32", "u64", "domid")]),
    st.integers(),
)
def test_numbers_keep_to_their_range(node: Node[Any], number: int) -> None:
    """A number is accepted exactly when it lies in its node's range."""
    if node.low <= number <= node.high:
        assert node.parse(str(number), "/x") == number
    else:
        with pytest.raises(PeerProtocolError):
            node.parse(str(number), "/x")


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (VirtioFront.NUM_QUEUES, 65),
        (VirtioFront.NUM_QUEUES, -1),
        (VirtioBack.CONFIG, b""),
        (VirtioBack.CONFIG, bytes(257)),
        (SvqBack.SERIAL, ""),
        (VirtioBack.ERROR, "a\nb"),
        (SvqFront.QUEUE_RING_REFS, ()),
        (SvqFront.QUEUE_RING_REFS, (2**32,)),
        (SvqFront.QUEUE_RING_REFS, (1,) * 9),
        (SvqFront.LIFETIME, "lazy"),
    ],
)
def test_own_values_are_checked_too(node: Node[Any], value: object) -> None:
    """We do not write what a peer would have to refuse."""
    with pytest.raises(ValueError, match="is not"):
        node.format(value)


FRONT = "/local/domain/3/device/virtio/0"


def front_store(queues: int = 2) -> dict[str, str]:
    """A frontend's directory as of Initialised."""
    store = {
        "backend": "/local/domain/0/backend/virtio/3/0",
        "backend-id": "0",
        "state": "3",
        "features-accepted": str(3 << 32),
        "num-queues": str(queues),
    }
    for n in range(queues):
        for leaf, text in (("size", "64"), ("desc", "4096"), ("avail", "8192"), ("used", "12288")):
            store[f"queue-{n}/{leaf}"] = text
        store[f"queue-{n}/event-channel"] = str(10 + n)
    return {f"{FRONT}/{name}": text for name, text in store.items()}


def test_directory_is_read_with_types_and_defaults() -> None:
    """Values come by node, with the node's type; absent optional nodes are their default."""
    values = read_directory(front_store().get, nodes.VIRTIO_FRONT, FRONT, State.Initialised)
    assert values[VirtioFront.FEATURES_ACCEPTED] == 3 << 32
    assert values[VirtioFront.STATE] is State.Initialised
    assert values[VirtioFront.STATUS] == 0
    assert values.at(VirtioFront.QUEUE_EVENT_CHANNEL, 1) == 11
    assert values.at(VirtioFront.QUEUE_RESET, 1) == 0
    assert values.get(VirtioFront.QUEUE_SIZE, 2) is None
    with pytest.raises(KeyError):
        values.at(VirtioFront.QUEUE_SIZE, 2)


def test_each_node_is_read_once() -> None:
    """A peer cannot show two values of one node; its state is the one that was seen before."""
    store = front_store()
    reads: Counter[str] = Counter()

    def reader(path: str) -> str | None:
        reads[path] += 1
        return store.get(path)

    read_directory(reader, nodes.VIRTIO_FRONT, FRONT, State.Initialised)
    assert set(store) - set(reads) == {f"{FRONT}/state"}
    assert set(reads.values()) == {1}


REQUIRED_NAMES = sorted(front_store(1).keys() - {f"{FRONT}/state"})


@pytest.mark.parametrize("missing", REQUIRED_NAMES)
def test_missing_nodes(missing: str) -> None:
    """A node that the state requires must be there; before that state, and while closing, it need not."""
    store = front_store(1)
    del store[missing]
    for state in (State.Initialised, State.Connected):
        with pytest.raises(
            PeerProtocolError, match=f"got .absent., expected .*required in state {state.name}"
        ) as caught:
            read_directory(store.get, nodes.VIRTIO_FRONT, FRONT, state)
        assert caught.value.node == missing
    if not missing.endswith(("/backend", "/backend-id")):
        for state in (State.Initialising, State.InitWait, State.Closing, State.Closed, State.Unknown):
            read_directory(store.get, nodes.VIRTIO_FRONT, FRONT, state)


def test_too_many_queues() -> None:
    """The number of queues is held against the caller's limit before any queue is read."""
    store = front_store(2)
    reads: list[str] = []

    def reader(path: str) -> str | None:
        reads.append(path)
        return store.get(path)

    with pytest.raises(PeerProtocolError, match="num-queues: got '2', expected at most 1 queues"):
        read_directory(reader, nodes.VIRTIO_FRONT, FRONT, State.Initialised, queues_max=1)
    assert not any("queue-" in path.removeprefix(FRONT) and "/queue-" in path for path in reads)


@pytest.mark.parametrize("size", [1, 256, 511, 512, 1024])
def test_pages_of_the_shadow_ring(size: int) -> None:
    """The references of a queue's pages are told apart by the queue's size, and are as many as its parts have pages."""
    desc, avail, used = (ring_pages(part, size) for part in ("desc", "avail", "used"))
    refs = SvqFront.QUEUE_RING_REFS.parse(" ".join(map(str, range(100, 100 + desc + avail + used))), "/x")
    parts = split_ring_refs(refs, size)
    assert parts is not None
    assert [len(part) for part in parts] == [desc, avail, used] and sum(parts, ()) == refs
    assert split_ring_refs(refs[1:], size) is None and split_ring_refs((*refs, 7), size) is None


def test_a_bad_value_counts_even_where_it_is_optional() -> None:
    """An optional node may be absent, not wrong."""
    store = {**front_store(), f"{FRONT}/status": "256"}
    with pytest.raises(PeerProtocolError, match="/status: got '256', expected a number from 0 to 255"):
        read_directory(store.get, nodes.VIRTIO_FRONT, FRONT, State.Initialised)


@given(st.dictionaries(st.sampled_from(sorted(front_store())), st.text(max_size=30)), st.sampled_from(State))
def test_any_directory_is_read_or_refused(changes: dict[str, str], state: State) -> None:
    """A directory of any texts is read or refused with a path in it, and nothing else happens."""
    store = {**front_store(), **changes}
    try:
        values = read_directory(store.get, nodes.VIRTIO_FRONT, FRONT, state, queues_max=16)
    except PeerProtocolError as error:
        assert error.node.startswith(FRONT)
    else:
        assert values[VirtioFront.BACKEND_ID] == int(store[f"{FRONT}/backend-id"])


def test_stats_are_json_on_one_line() -> None:
    """What we write as JSON is one printable line that reads back equal."""
    stats = {"nonce": 7, "name": "\u00e4\n", "queues": [{"requests": 2**53}]}
    text = VirtioBack.STATS.format(stats)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == stats
