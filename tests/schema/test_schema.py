# SPDX-License-Identifier: GPL-2.0-or-later
"""nodes.yaml and what is made from it: the loader's checks, generated files, the protocol page's example."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from xenstore_schema import State, generate, model, nodes, read_directory, render
from xenstore_schema.spec import Directory, ring_pages

ROOT = Path(__file__).parents[2]
HEADER = ROOT / "xenstore_schema" / "include" / "svq_nodes.h"


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(model.SOURCE.read_text(encoding="utf-8"))
    return loaded


def test_generated_files_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody changed the single source, or a generated file, without the other."""
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_check_writes_nothing_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--check names a file that is out of date and leaves it; without it the file is written."""
    stale = tmp_path / "nodes.py"
    monkeypatch.setattr(generate, "outputs", lambda: {stale: "new"})
    stale.write_text("old")
    assert generate.main(["--check"]) == 1
    assert stale.read_text() == "old"
    assert f"out of date: {stale}" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert stale.read_text() == "new"
    assert generate.main(["--check"]) == 0


def test_python_has_what_the_source_says() -> None:
    """The generated tables are those of the source, but for the prose."""
    schema = model.load()
    assert schema.version == nodes.VERSION
    plain = tuple(
        replace(table, nodes=tuple(replace(node, doc="") for node in table.nodes)) for table in schema.directories
    )
    assert plain == nodes.DIRECTORIES


def test_paths() -> None:
    """The path helpers put the ids where XenBus has them, and `locate` takes them out again."""
    assert nodes.virtio_back_path(mediator=1, frontend=3, device=51712) == "/local/domain/1/backend/virtio/3/51712"
    assert nodes.virtio_front_path(frontend=3, device=0) == "/local/domain/3/device/virtio/0"
    assert nodes.svq_back_path(backend=2, mediator=0, handle=7) == "/local/domain/2/backend/svq/0/7"
    assert nodes.svq_front_path(mediator=0, handle=7) == "/local/domain/0/device/svq/7"
    assert nodes.virtio_back_root(mediator=1) == "/local/domain/1/backend/virtio"
    located = nodes.VIRTIO_BACK.locate("/local/domain/1/backend/virtio/3/51712/queue-0/reset-done")
    assert located == ({"mediator": 1, "frontend": 3, "device": 51712}, "queue-0/reset-done")
    assert nodes.SVQ_FRONT.locate("/local/domain/0/device/svq/7") == ({"mediator": 0, "handle": 7}, "")
    for elsewhere in (
        "/local/domain/1/backend/virtio/3",
        "/local/domain/1/backend/virtio/3/x",
        "",
        "@releaseDomain",
    ):
        assert nodes.VIRTIO_BACK.locate(elsewhere) is None


def test_queue_names_take_their_indices() -> None:
    """A name with indices takes exactly those."""
    assert nodes.VirtioFront.QUEUE_SIZE.path("/d", 3) == "/d/queue-3/size"
    with pytest.raises(ValueError, match="takes"):
        nodes.VirtioFront.QUEUE_SIZE.path("/d")
    with pytest.raises(ValueError, match="takes no index"):
        nodes.VirtioFront.STATE.path("/d", 0)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_header_compiles_and_agrees(compiler: str, tmp_path: Path) -> None:
    """The C header compiles without a warning, and its names and limits are those of the Python tables."""
    command = shutil.which(compiler) or shutil.which("cc")
    assert command is not None, "a C compiler is part of the build"
    (tmp_path / "show.c").write_text(
        '#include "svq_nodes.h"\n#include <stdio.h>\n'
        "int main(void)\n{\n    char name[SVQ_NODE_NAME_SIZE];\n"
        "    snprintf(name, sizeof(name), SVQ_NODE_SVQ_FRONT_QUEUE_RING_REFS, 4294967295u);\n"
        '    printf("%s\\n" SVQ_PATH_VIRTIO_BACK "\\n", name, 1u, 3u, 5u);\n'
        '    printf("%d\\n", SVQ_COUNT_MAX_SVQ_FRONT_QUEUE_RING_REFS);\n'
        '    printf("%d %d %d %u\\n", SVQ_PROTOCOL_VERSION, SVQ_STATE_INIT_WAIT,\n'
        "           SVQ_MAX_VIRTIO_FRONT_NUM_QUEUES, SVQ_MIN_VIRTIO_FRONT_QUEUE_EVENT_CHANNEL);\n"
        "    puts(SVQ_DEFAULT_SVQ_BACK_MODE SVQ_CHOICE_SVQ_FRONT_LIFETIME_STRICT);\n    return 0;\n}\n"
    )
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{HEADER.parent}"]
    subprocess.run([command, *flags, "show.c", "-o", "show"], cwd=tmp_path, check=True)
    shown = subprocess.run([tmp_path / "show"], check=True, capture_output=True, text=True).stdout
    assert shown.splitlines() == [
        "queue-4294967295/ring-refs",
        nodes.virtio_back_path(mediator=1, frontend=3, device=5),
        str(nodes.SvqFront.QUEUE_RING_REFS.count_max),
        f"{nodes.VERSION} 2 {nodes.VirtioFront.NUM_QUEUES.high} 1",
        "wstrict",
    ]


def test_header_has_every_node() -> None:
    """Each node and choice of the schema has its constant."""
    text = HEADER.read_text(encoding="utf-8")
    for directory in nodes.DIRECTORIES:
        where = render.constant(directory.name)
        for node in directory.nodes:
            name = f"{where}_{render.constant(node.name)}"
            assert f"#define SVQ_NODE_{name} " in text
            for choice in node.choices:
                assert f'#define SVQ_CHOICE_{name}_{render.constant(choice)} "{choice}"' in text


def example_store() -> dict[str, str]:
    """The worked example of the protocol page, as a store."""
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    return dict(re.findall(r'^(/local\S+) = "(.*)"$', page, re.MULTILINE))


EXAMPLE = (
    (nodes.VIRTIO_BACK, nodes.virtio_back_path(mediator=0, frontend=3, device=0)),
    (nodes.VIRTIO_FRONT, nodes.virtio_front_path(frontend=3, device=0)),
    (nodes.SVQ_BACK, nodes.svq_back_path(backend=2, mediator=0, handle=0)),
    (nodes.SVQ_FRONT, nodes.svq_front_path(mediator=0, handle=0)),
)


@pytest.mark.parametrize(("directory", "path"), EXAMPLE)
def test_protocol_example_is_a_connected_device(directory: Directory, path: str) -> None:
    """Each directory of the example has all that Connected requires, and nothing outside of the schema."""
    store = example_store()
    read: list[str] = []

    def reader(node_path: str) -> str | None:
        read.append(node_path)
        return store.get(node_path)

    read_directory(reader, directory, path, State.Connected)
    there = {node for node in store if node.startswith(f"{path}/")}
    assert there - {f"{path}/state"} <= set(read)


def test_protocol_example_fits_together() -> None:
    """The four directories of the example name each other, and its ring addresses do not overlap."""
    store = example_store()
    paths = [path for _, path in EXAMPLE]
    assert all(any(node.startswith(f"{path}/") for path in paths) for node in store)
    for back, front in ((paths[0], paths[1]), (paths[2], paths[3])):
        assert store[f"{back}/frontend"] == front
        assert store[f"{front}/backend"] == back
    queue = f"{paths[1]}/queue-0"
    desc, avail, used = (int(store[f"{queue}/{part}"]) for part in ("desc", "avail", "used"))
    assert desc + 16 * 256 <= avail
    assert avail + 6 + 2 * 256 <= used
    assert (desc % 16, avail % 2, used % 4) == (0, 0, 0)


def test_protocol_page_has_every_node() -> None:
    """Each node is on the page, with its values and its writer."""
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    for directory in nodes.DIRECTORIES:
        for node in directory.nodes:
            assert f"**`{node.name}`**\n- Values: {node.expected}" in page
    assert "@" not in page


def test_ring_pages() -> None:
    """Pages of each ring part (virtio 2.7), at the sizes where they change."""
    assert [ring_pages("desc", size) for size in (1, 256, 512, 1024)] == [1, 1, 2, 4]
    assert [ring_pages("avail", size) for size in (1, 1024, 2048)] == [1, 1, 2]
    assert [ring_pages("used", size) for size in (1, 256, 511, 512, 1024)] == [1, 1, 1, 2, 3]


def find(source: dict[str, Any], name: str) -> dict[str, Any]:
    """A node of a copy of the source, to be spoiled."""
    entry: dict[str, Any] = next(entry for entry in source["nodes"] if f"{entry['dir']} {entry['name']}" == name)
    return entry


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("virtio.back online", {"default": "2"}, "default '2' is not 0 or 1"),
        ("virtio.back online", {"default": 1}, "default 1 is no str"),
        ("virtio.back online", {"colour": "red"}, "unknown key 'colour'"),
        ("virtio.back online", {"writer": "backend"}, "only the toolstack and the owner may write here"),
        ("virtio.back online", {"writer": "nobody"}, "writer 'nobody' is none of"),
        ("virtio.back online", {"type": "u128"}, "type 'u128' is none of"),
        ("virtio.back online", {"required_from": "Initialising"}, "a required node has no default"),
        ("virtio.back online", {"min": 1}, "min and max have no meaning for bool"),
        ("virtio.back online", {"name": "state"}, "defined twice"),
        ("virtio.back online", {"name": "Online"}, "not a node name"),
        ("virtio.back online", {"dir": "virtio.middle"}, "no such directory"),
        ("virtio.back online", {"doc": "no full stop"}, "doc is no sentence"),
        ("virtio.back online", {"choices": ["a"]}, "choices belongs to choice"),
        ("virtio.back placement", {"choices": []}, "choices belongs to choice"),
        ("virtio.back version", {"required_from": "Closing"}, "is no state on the way to Connected"),
        ("virtio.back num-queues", {"min": 65}, "65 to 64 is no range of u16"),
        ("virtio.back num-queues", {"max": 65536}, "1 to 65536 is no range of u16"),
        ("virtio.back num-queues", {"name": "queues"}, "queue nodes without num-queues"),
        ("virtio.back config", {"max_bytes": None}, "max_bytes None is no int"),
        ("virtio.back state", {"type": "u8"}, "needs a node `state` that its owner writes"),
        ("svq.front queue-{n}/ring-refs", {"count_max": None}, "count_max None is no int"),
        ("svq.front queue-{n}/size", {"count_max": 2}, "count_max belongs to u32s"),
        ("svq.back mode", {"may_be_empty": True}, "may_be_empty belongs to text"),
        ("virtio.back online", {"initial": "1"}, "initial belongs to nodes that others than the toolstack write"),
        ("virtio.back held-pages", {"initial": "none"}, "initial 'none' is not a number"),
    ],
)
def test_mistakes_in_the_source_are_found(
    source: dict[str, Any], name: str, change: dict[str, Any], problem: str
) -> None:
    """A spoiled node.yaml is refused with a line that names the node and the mistake."""
    spoiled = copy.deepcopy(source)
    find(spoiled, name).update(change)
    with pytest.raises(model.SchemaError, match=re.escape(problem)):
        model.build(spoiled)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"path": "/local/domain/{frontend}/backend/virtio/{device}"}, "is not the owner's"),
        ({"name": "virtio"}, "not a fresh name"),
        ({"owner": "nobody"}, "no such owner"),
        ({"extra": 1}, "expected exactly the keys"),
    ],
)
def test_mistakes_in_a_directory_are_found(source: dict[str, Any], change: dict[str, Any], problem: str) -> None:
    """A spoiled directory entry is refused."""
    spoiled = copy.deepcopy(source)
    spoiled["directories"][0].update(change)
    with pytest.raises(model.SchemaError, match=re.escape(problem)):
        model.build(spoiled)


def test_the_source_as_a_whole(source: dict[str, Any]) -> None:
    """Missing sections, entries of the wrong form and a bad version are found."""
    wholes: tuple[object, ...] = (None, [], {"version": 1}, {**source, "more": 1})
    for spoiled in wholes:
        with pytest.raises(model.SchemaError, match="exactly: version, directories, nodes"):
            model.build(spoiled)
    with pytest.raises(model.SchemaError, match="version: True"):
        model.build({**source, "version": True})
    with pytest.raises(model.SchemaError, match="expected a mapping"):
        model.build({**source, "nodes": [*source["nodes"], 5]})
    with pytest.raises(model.SchemaError, match="missing: doc"):
        model.build({**source, "nodes": [{"dir": "svq.back", "name": "a", "type": "u8", "writer": "backend"}]})


def test_template_needs_each_mark_once() -> None:
    """A protocol page that would leave out a directory is not made."""
    with pytest.raises(ValueError, match=r"@nodes virtio\.back@ once"):
        render.markdown(model.load(), "no marks")
