# SPDX-License-Identifier: GPL-2.0-or-later
"""One part of a test inside a domain of the machine, kept running: a Python start costs more there than most calls.

usage: remote_server.py ROLE FOLDER [ARGUMENT ...]
    operator                    `shadowvq` command lines (dom0)
    driver DEVICE MEMORY_MIB    the user-space driver, honest or not (a frontend)
    store                       bare connections to XenStore, as the domain that it runs in
    attacker                    tries what its domain can reach (the backend's)
    auditor                     looks into guests' grant tables (dom0)
    observer                    does so all the time, and compares with what the guests were told (dom0)

Reads one call after another, as JSON [method, arguments], from the FIFO `requests`, and writes [answer, error] to the
FIFO `answers`.
"""

import errno
import json
import os
import select
import socket
import struct
import sys
import traceback
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from xen_shadowvq.xenstore import XenStore


class Operator:
    """`shadowvq`, as an operator calls it."""

    def __init__(self) -> None:
        from xen_shadowvq.cli import main

        self._main, self._runner = main, CliRunner()

    def run(self, words: list[str]) -> list[Any]:
        """Exit status and output of one command line."""
        result = self._runner.invoke(self._main, words)
        return [result.exit_code, result.output]


class Store:
    """Bytes to and from xenstored: by its socket where there is one (dom0), else by the kernel's device."""

    SOCKET, DEVICE = Path("/run/xenstored/socket"), Path("/dev/xen/xenbus")
    HEADER = struct.Struct("=IIII")  # Xen public/io/xs_wire.h: struct xsd_sockmsg
    ERROR = 16
    ANSWER_S = 20.0

    def __init__(self) -> None:
        self._tidy = XenStore.connect()

    def open(self) -> int:
        """A new connection; its number."""
        if not self.SOCKET.exists():
            return os.open(self.DEVICE, os.O_RDWR)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.SOCKET))
        return connection.detach()

    def exchange(self, number: int, data: str) -> str:
        """Sends bytes, then returns those that come, at least one unless the other end closed; hexadecimal.

        What the kernel's device refuses, it refuses by errno: here that is the answer which xenstored would give.
        """
        sent = bytes.fromhex(data)
        try:
            while sent:
                sent = sent[os.write(number, sent) :]
        except ConnectionError:
            return ""
        except OSError as error:
            _, request, transaction, _ = self.HEADER.unpack_from(bytes.fromhex(data))
            name = f"{errno.errorcode[error.errno or 0]}\0".encode()
            return (self.HEADER.pack(self.ERROR, request, transaction, len(name)) + name).hex()
        readable, _, _ = select.select([number], [], [], self.ANSWER_S)
        try:
            return os.read(number, 65536).hex() if readable else ""
        except ConnectionError:
            return ""

    def remove(self, paths: list[str]) -> None:
        """Removes nodes with all below them; with `/*` at the end only what is below."""
        for path in paths:
            parent = path.removesuffix("/*")
            for name in self._tidy.ls(parent) if parent != path else [""]:
                self._tidy.rm(f"{parent}/{name}".rstrip("/"))

    def close(self, number: int) -> None:
        """Closes a connection."""
        os.close(number)


class Auditor:
    """Counts what is in other domains' grant tables."""

    FLAGS = 0xFFFF  # Xen public/grant_table.h: struct grant_entry_v1

    def __init__(self) -> None:
        from xen_shadowvq.hypervisor import Hypervisor

        self._hypervisor = Hypervisor("mediator", None)

    def entries_in_use(self, domid: int, first: int, count: int) -> int:
        """How many of `count` entries from `first` on grant anything."""
        return sum(first <= gref < first + count for gref in self.grefs_in_use(domid))

    def grefs_in_use(self, domid: int) -> list[int]:
        """All entries of a guest that grant anything, or are mapped: those that are 0 let nobody at anything."""
        from rule_observer import GrantTable

        with GrantTable(self._hypervisor, domid) as table:
            return [gref for gref, entry in enumerate(table) if entry & self.FLAGS]


def make(role: str, arguments: list[str]) -> object:
    """The object that is served."""
    if role == "operator":
        return Operator()
    if role == "store":
        return Store()
    if role == "auditor":
        return Auditor()
    if role == "observer":
        from rule_observer import RuleObserver

        return RuleObserver()
    if role == "driver":
        from xen_player import Player

        return Player(*map(int, arguments))
    if role == "attacker":
        from xen_player import Attacker

        return Attacker()
    raise SystemExit(f"no such role: {role}")


def serve(folder: Path, target: object) -> None:
    """Serves until it is killed."""
    requests, answers = folder / "requests", folder / "answers"
    for fifo in (requests, answers):
        os.mkfifo(fifo)
    (folder / "ready").touch()
    while True:
        method, arguments = json.loads(requests.read_text())
        try:
            answer = [getattr(target, method)(**arguments), None]
        except Exception:
            answer = [None, traceback.format_exc()]
        answers.write_text(json.dumps(answer) + "\n")


if __name__ == "__main__":
    serve(Path(sys.argv[2]), make(sys.argv[1], sys.argv[3:]))
