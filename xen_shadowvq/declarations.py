# SPDX-License-Identifier: GPL-2.0-or-later
"""Which disks a guest gets whenever it runs: one YAML file for each guest, /etc/shadowvq/guests.d/NAME.yaml."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from xen_shadowvq import models
from xen_shadowvq.config import CopyThreshold, Placement
from xen_shadowvq.dom0 import Declared
from xen_shadowvq.errors import ConfigError, shown
from xen_shadowvq.models import Section
from xen_shadowvq.new_device import Disk
from xen_shadowvq.yaml_source import Loc
from xenstore_schema import nodes
from xenstore_schema.spec import DOMID_MAX

DIRECTORY = Path("/etc/shadowvq/guests.d")
DEVICE_MAX = 65535
_ENDING = ".yaml"
_NAME = re.compile(r"[\x20-\x7e]{1,64}")  # what `declared-as` can hold
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._+-]+")  # what xl takes on its command line


def _domain(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("neither a name nor an id")
    if value.isdecimal() and not (len(value) <= 5 and int(value) <= DOMID_MAX):
        raise ValueError("no domain can have this id")
    return value


def _absolute(value: str) -> str:
    if nodes.SvqBack.PARAMS.value_of(value) is None:
        raise ValueError("not absolute")
    return value


def _serial(value: str) -> str:
    if nodes.SvqBack.SERIAL.value_of(value) is None:
        raise ValueError("too long, or not printable")
    return value


Domain = Annotated[
    str, BeforeValidator(_domain), Field(description=f"a domain's name, or its id from 0 to {DOMID_MAX}")
]
AbsolutePath = Annotated[str, AfterValidator(_absolute), Field(description="an absolute path, in printable ASCII")]
Serial = Annotated[str, AfterValidator(_serial), Field(description="1 to 20 printable ASCII characters")]


class DeclaredDisk(Section):
    """One disk. `device` None: its place in the list; `backend` None: the file's; `copy_threshold` is in bytes."""

    image: AbsolutePath
    device: Annotated[int, Field(ge=0, le=DEVICE_MAX)] | None = None
    backend: Domain | None = None
    read_only: bool = False
    direct_io: bool = False
    shareable: bool = False
    queues: Annotated[int, Field(ge=1, le=64)] = 1
    serial: Serial | None = None
    placement: Placement | None = None
    copy_threshold: CopyThreshold | None = None

    def as_disk(self) -> Disk:
        """The disk, for `toolstack.attach`."""
        return Disk(**self.model_dump(exclude={"device", "backend"}))


Disks = Annotated[tuple[DeclaredDisk, ...], Strict(False), Field(description="a list of disks, [] for none")]


class _File(Section):
    """A whole file. `disks` has no default: a file that is just being written, and still empty, detaches no disk."""

    mediator: Domain = "0"
    backend: Domain = "0"
    mediator_config: AbsolutePath | None = None
    disks: Disks


@dataclass(frozen=True)
class Wanted:
    """A disk that a guest should have. `backend` is a name or an id."""

    device: int
    backend: str
    disk: Disk

    @property
    def digest(self) -> bytes:
        """Covers what cannot change while the device is attached. dom0's record itself says which domains serve it."""
        text = repr(sorted(asdict(self.disk).items()))
        return hashlib.sha256(text.encode()).digest()[: nodes.VirtioRecord.DECLARED.bytes_max]


@dataclass(frozen=True)
class Declaration:
    """All that is declared for the guest `name`. `mediator` is a name or an id."""

    name: str
    mediator: str
    mediator_config: str | None
    """The xl configuration of its mediator's domain, a path in dom0. None: the operator makes that domain."""
    wanted: Mapping[int, Wanted]
    """By device number."""

    def stands_for(self, device: int) -> Declared:
        """What dom0's record should say about that device."""
        return Declared(self.name, self.wanted[device].digest)


@dataclass(frozen=True)
class Declarations:
    """
    What a directory says. In `guests`, a guest whose file is invalid has None: nobody can tell what it should have.
    """

    guests: Mapping[str, Declaration | None] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def read_directory(directory: Path, read: Callable[[Path], Declaration] | None = None) -> Declarations:
    """
    Reads every file whose name ends in `.yaml`, with `read` in place of `read_file` if given. A name that begins with a
    dot is some editor's. An invalid file affects no other. ConfigError: the directory cannot be read, so nothing is
    known about any guest.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(
            f"{directory}: {error.strerror}, expected a directory with a file NAME.yaml for each guest"
        ) from error
    guests: dict[str, Declaration | None] = {}
    problems: list[str] = []
    for path in paths:
        if path.suffix == ".yml":
            problems.append(f"{path}: ignored, expected a name that ends in {_ENDING}; rename the file")
        elif path.suffix == _ENDING:
            guests[path.stem] = None
            try:
                guests[path.stem] = (read or read_file)(path)
            except ConfigError as error:
                problems += error.problems
    return Declarations(guests, tuple(problems))


def read_file(path: Path) -> Declaration:
    """Reads the file of one guest. ConfigError names the file, the line, the key, and what was expected."""
    name = path.stem
    if not _NAME.fullmatch(name) or name.isdecimal():
        raise ConfigError(
            f"{path}: {shown(name)} is not a guest's name, expected 1 to 64 printable characters, not only digits"
        )
    if not path.is_file():  # opening a FIFO would wait for a writer
        raise ConfigError(f"{path}: expected a regular file")
    file = models.load(_File, path, lambda file: _mistakes(name, file))
    wanted = {
        number: Wanted(number, disk.backend if disk.backend is not None else file.backend, disk.as_disk())
        for number, disk in _numbered(file)
    }
    return Declaration(name, file.mediator, file.mediator_config, wanted)


def _numbered(file: _File) -> Iterator[tuple[int, DeclaredDisk]]:
    return ((index if disk.device is None else disk.device, disk) for index, disk in enumerate(file.disks))


def _mistakes(name: str, file: _File) -> Iterator[tuple[Loc, str]]:
    serving: list[tuple[Loc, str | None]] = [(("mediator",), file.mediator), (("backend",), file.backend)]
    serving += [(("disks", index, "backend"), disk.backend) for index, disk in enumerate(file.disks)]
    yield from ((loc, "is the guest itself, expected another domain") for loc, domain in serving if domain == name)
    if file.mediator_config is not None and (file.mediator.isdecimal() or not _PLAIN_NAME.fullmatch(file.mediator)):
        expected = "a domain's name of letters, digits and ._+- (`mediator_config` makes that domain)"
        yield ("mediator",), f"got {shown(file.mediator)}, expected {expected}"
    numbers: dict[int, int] = {}
    images: dict[tuple[str, str], Any] = {}
    for index, (number, disk) in enumerate(_numbered(file)):
        first = numbers.setdefault(number, index)
        if first != index:
            yield ("disks", index, "device"), f"{number} is also that of disks[{first}], expected another"
        image = (disk.backend or file.backend, disk.image)
        other, before = images.setdefault(image, (index, disk))
        alone = not (disk.shareable and before.shareable) and not (disk.read_only and before.read_only)
        if other != index and alone:
            yield (
                ("disks", index, "image"),
                (f"{shown(disk.image)} is also that of disks[{other}], expected both read_only or both shareable"),
            )
