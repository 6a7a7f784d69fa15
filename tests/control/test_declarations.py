# SPDX-License-Identifier: GPL-2.0-or-later
"""Declarations of guests' disks: what a file means, and what is said of a bad one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xen_shadowvq.declarations import Declaration, read_directory, read_file
from xen_shadowvq.declared_files import DeclaredFiles
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.new_device import Disk

EXAMPLE = Path(__file__).parents[2] / "deploy" / "guests.d" / "web1.yaml"
ONE = "disks:\n  - image: /srv/a.img\n"
TWO = ONE + "  - image: /srv/b.img\n"


def declare(directory: Path, text: str, name: str = "web1") -> Path:
    path = directory / f"{name}.yaml"
    path.write_text(text)
    return path


def problems(path: Path) -> list[str]:
    """What is wrong with a file, without its directory's name."""
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    return [problem.removeprefix(f"{path.parent}/") for problem in caught.value.problems]


def test_the_example_loads() -> None:
    """The example that is shipped is a good file, and speaks of every key."""
    declaration = read_file(EXAMPLE)
    assert declaration.name == "web1" and declaration.wanted
    text = EXAMPLE.read_text()
    keys = "mediator mediator_config backend disks image device read_only direct_io shareable queues serial placement"
    assert [key for key in [*keys.split(), "copy_threshold"] if f"{key}:" not in text] == []


def test_values_and_defaults(tmp_path: Path) -> None:
    """A disk's number is its place in the list unless it has one, its backend the guest's unless it has its own."""
    text = """
mediator: med
backend: 7
disks:
  - image: /srv/a.img
  - {image: /srv/b.img, device: 9, backend: drv, read_only: true, queues: 4, serial: s1, placement: copy}
"""
    declaration = read_file(declare(tmp_path, text))
    assert (declaration.name, declaration.mediator, declaration.mediator_config) == ("web1", "med", None)
    assert list(declaration.wanted) == [0, 9]
    assert [wanted.backend for wanted in declaration.wanted.values()] == ["7", "drv"]
    assert declaration.wanted[0].disk == Disk("/srv/a.img")
    assert declaration.wanted[9].disk == Disk("/srv/b.img", read_only=True, queues=4, serial="s1", placement="copy")
    assert read_file(declare(tmp_path, "disks: []\n")) == Declaration("web1", "0", None, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "web1.yaml: disks: is missing, expected a list of disks, [] for none"),
        ("disks: {}\n", "web1.yaml:1: disks: got a mapping, expected a list of disks"),
        ("disk: []\ndisks: []\n", "web1.yaml:1: disk: no such key; did you mean disks?"),
        ("disks: [{}]\n", "web1.yaml:1: disks[0].image: is missing, expected an absolute path"),
        ("disks:\n  - image: a.img\n", "web1.yaml:2: disks[0].image: got 'a.img', expected an absolute path"),
        ("disks:\n  - {image: /a, queues: 65}\n", "web1.yaml:2: disks[0].queues: got 65, expected a whole number"),
        ("disks:\n  - {image: /a, read_only: 1}\n", "web1.yaml:2: disks[0].read_only: got 1, expected boolean"),
        ("disks:\n  - {image: /a, placement: exat}\n", "web1.yaml:2: disks[0].placement: got 'exat', expected one of"),
        ("disks:\n  - {image: /a, device: -1}\n", "web1.yaml:2: disks[0].device: got -1, expected a whole number"),
        ("disks:\n  - {image: /a, serial: 123456789012345678901}\n", "serial: got 123456789012345678901, expected 1"),
        ("mediator: 99999\ndisks: []\n", "web1.yaml:1: mediator: got 99999, expected a domain's name, or its id"),
        ("mediator: [a]\ndisks: []\n", "web1.yaml:1: mediator: got a list, expected a domain's name"),
        ("backend: web1\ndisks: []\n", "web1.yaml:1: backend: is the guest itself, expected another domain"),
        ("mediator_config: /m.cfg\ndisks: []\n", "mediator: got '0', expected a domain's name of letters"),
        ("mediator: m\nmediator_config: m.cfg\ndisks: []\n", "web1.yaml:2: mediator_config: got 'm.cfg', expected"),
        (ONE + "  - {image: /b, device: 0}\n", "web1.yaml:3: disks[1].device: 0 is also that of disks[0], expected"),
        (ONE + "  - {image: /srv/a.img}\n", "web1.yaml:3: disks[1].image: '/srv/a.img' is also that of disks[0]"),
        ("disks: [\n", "not YAML"),
        ("disks: []\ndisks: []\n", "web1.yaml:2: key 'disks' is given twice"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, text: str, expected: str) -> None:
    """One line with file, line, key, what was given and what is expected, for each way to get a file wrong."""
    (line,) = problems(declare(tmp_path, text))
    assert expected in line and line.startswith("web1.yaml") and "\n" not in line


def test_an_image_twice_where_that_is_meant(tmp_path: Path) -> None:
    """One image may be two disks that only read, or that both say that they share, or in two backends."""
    for more in ("read_only: true", "shareable: true"):
        text = f"disks:\n  - {{image: /a, {more}}}\n  - {{image: /a, {more}}}\n"
        assert len(read_file(declare(tmp_path, text)).wanted) == 2
    assert len(read_file(declare(tmp_path, "disks: [{image: /a}, {image: /a, backend: 5}]\n")).wanted) == 2


@pytest.mark.parametrize("name", ["17", "ümlaut", "n" * 65])
def test_names_that_no_guest_can_have(tmp_path: Path, name: str) -> None:
    """A file whose name is an id, or nothing that a domain's record can hold, is refused by its name."""
    (line,) = problems(declare(tmp_path, ONE, name))
    assert "is not a guest's name, expected 1 to 64 printable characters, not only digits" in line


def test_the_digest_is_of_the_disk_alone(tmp_path: Path) -> None:
    """Each property of a disk changes it; who serves it, and what other disks there are, does not."""
    base = read_file(declare(tmp_path, ONE)).wanted[0].digest
    assert read_file(declare(tmp_path, "mediator: m\nbackend: b\n" + TWO)).wanted[0].digest == base
    changes = ["read_only: true", "direct_io: true", "shareable: true", "queues: 2", "serial: s", "placement: copy"]
    others = {
        read_file(declare(tmp_path, f"disks: [{{image: /srv/a.img, {one}}}]")).wanted[0].digest
        for one in [*changes, "copy_threshold: 1", "copy_threshold: 2"]
    }
    assert len(others) == len(changes) + 2 and base not in others


def test_a_bad_file_costs_no_other(tmp_path: Path) -> None:
    """A directory with good and bad files: the good are read, the bad are None, and each says why; editors' files and
    what is no .yaml are not read, and a .yml, which somebody may rely on, is named."""
    declare(tmp_path, ONE, "good")
    declare(tmp_path, "disks: 1", "bad")
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nowhere")
    for name in (".#good.yaml", "good.yaml~", "note.txt", "web2.yml"):
        (tmp_path / name).write_text("disks: 1")
    found = read_directory(tmp_path)
    assert {name: read is not None for name, read in found.guests.items()} == {
        "good": True, "bad": False, "fifo": False, "dangling": False
    }  # fmt: skip
    assert [Path(problem.split(":")[0]).name for problem in found.problems] == [
        "bad.yaml", "dangling.yaml", "fifo.yaml", "web2.yml"
    ]  # fmt: skip


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """A directory that is missing is an error that names it, not a host without declarations."""
    with pytest.raises(ConfigError, match="nowhere: No such file or directory, expected a directory"):
        read_directory(tmp_path / "nowhere")


def numbers(files: DeclaredFiles) -> dict[str, list[int] | None]:
    return {name: None if one is None else list(one.wanted) for name, one in files.guests.items()}


def test_a_change_counts_when_it_has_come_to_rest(tmp_path: Path) -> None:
    """What is there at first counts at once; later a change, a new file and one that is gone count at the second look
    that finds the same, and a file that comes back in between was never gone."""
    path = declare(tmp_path, ONE)
    files = DeclaredFiles(tmp_path)
    assert files.look() and numbers(files) == {"web1": [0]}
    path.write_text(TWO)
    declare(tmp_path, ONE, "web2")
    assert not files.look() and numbers(files) == {"web1": [0]}
    assert files.look() and numbers(files) == {"web1": [0, 1], "web2": [0]}
    path.rename(tmp_path / "web1.yaml~")
    assert not files.look()
    declare(tmp_path, TWO)
    assert not files.look() and not files.look()
    path.unlink()
    assert not files.look() and numbers(files) == {"web1": [0, 1], "web2": [0]}
    assert files.look() and numbers(files) == {"web2": [0]}


def test_a_file_that_is_half_written(tmp_path: Path) -> None:
    """Neither an emptied file nor a part of it that happens to be good takes a disk away, when the rest follows."""
    path = declare(tmp_path, TWO)
    files = DeclaredFiles(tmp_path)
    files.look()
    path.write_text("")
    assert files.look() and numbers(files) == {"web1": None}, "a bad file counts at once: nothing is done for its guest"
    path.write_text(ONE)
    assert not files.look() and numbers(files) == {"web1": None}
    path.write_text(TWO + "\n")
    files.look()
    files.look()
    assert numbers(files) == {"web1": [0, 1]}


def test_who_says_so_need_not_wait(tmp_path: Path) -> None:
    """`at_once`, as on SIGHUP: what is there counts."""
    path = declare(tmp_path, ONE)
    files = DeclaredFiles(tmp_path)
    files.look()
    path.unlink()
    assert files.look(at_once=True) and numbers(files) == {}


def test_a_directory_that_goes_takes_nothing_along(tmp_path: Path) -> None:
    """While the directory cannot be read, what counted before goes on to count; at first, nothing is known."""
    directory = tmp_path / "guests.d"
    files = DeclaredFiles(directory)
    assert not files.look() and not files.known and len(files.problems) == 1
    directory.mkdir()
    declare(directory, ONE)
    assert files.look() and files.known
    directory.rename(tmp_path / "elsewhere")
    assert not any(files.look() for _ in range(3)) and numbers(files) == {"web1": [0]}
    assert "No such file or directory" in files.problems[0]
