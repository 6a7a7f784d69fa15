# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands over a console that loses messages: each runs once, and its answer comes in the end."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import channel as channel_module
from tests.harness.channel import DOM0, Channel
from tests.harness.initramfs import GUEST_FILES
from tests.harness.monitor import Monitor

DEADLINE_S = 30.0
CHUNK = 65536
AGENTS = {"agent.py": [sys.executable], "agent.sh": ["/bin/sh"]}

# Adds a line to a file for each time that it runs, and prints the file.
COUNT_RUNS = "echo . >>{folder}/runs; cat {folder}/runs"


class Console:
    """An agent on a terminal of its own, and the channel to it, with something in between that drops one line."""

    def __init__(self, agent: str, folder: Path) -> None:
        self.drop: bytes | None = None  # the first line that has these words
        self.dropped: bytes | None = None
        self._terminal, slave = pty.openpty()
        tty.setraw(slave)
        words = [*AGENTS[agent], str(GUEST_FILES / agent), os.ttyname(slave), str(folder)]
        self._agent = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        ours, self._theirs = socket.socketpair()
        self.monitor = Monitor(folder / "console.log", lambda: self._agent.poll() is None)
        self.channel = Channel(ours, self.monitor)
        for source, sink in ((self._terminal, self._theirs.fileno()), (self._theirs.fileno(), self._terminal)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()
        self._open = [ours, self._theirs]
        self._slave = slave

    def _carry(self, source: int, sink: int) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(source, CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if self.drop and self.drop in line and self.dropped is None:
                        self.dropped = line
                    else:
                        os.write(sink, line + b"\n")

    def close(self) -> None:
        """Ends the agent."""
        self._agent.kill()
        self._agent.wait()
        for connection in self._open:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for end in (self._slave, self._terminal):
            os.close(end)


@contextmanager
def console(agent: str, folder: Path) -> Iterator[Console]:
    """A console whose agent takes commands."""
    opened = Console(agent, folder)
    try:
        opened.channel.open(DOM0, agent, DEADLINE_S)
        yield opened
    finally:
        opened.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks again at once."""
    monkeypatch.setattr(channel_module, "AGAIN_S", 0.3)


@pytest.mark.parametrize("agent", AGENTS)
def test_command_runs_once(agent: str, tmp_path: Path) -> None:
    """Without losses a command gets what it was given, and gives back what it printed and how it ended."""
    with console(agent, tmp_path) as there:
        result = there.channel.start(DOM0, "cat; echo wrong >&2; exit 3", DEADLINE_S, b"given").wait()
        assert (result.status, result.stdout, result.stderr) == (3, "given", "wrong\n")
        assert there.channel.losses == []


@pytest.mark.parametrize("agent", AGENTS)
def test_slow_command_is_only_waited_for(agent: str, tmp_path: Path) -> None:
    """A command that takes longer than the channel's patience runs once, and nothing counts as lost."""
    with console(agent, tmp_path) as there:
        result = there.channel.start(DOM0, f"sleep 1; {COUNT_RUNS.format(folder=tmp_path)}", DEADLINE_S).wait()
        assert (result.status, result.stdout) == (0, ".\n")
        assert there.channel.start(DOM0, "true", DEADLINE_S).wait().status == 0
        assert there.channel.losses == []


@pytest.mark.parametrize(
    ("words", "said"),
    [(b"SVQ . 1 0 ", "answer to request 1"), (b"SVQ . 1 30 ", "request 1 on the way")],
    ids=["answer", "request"],
)
@pytest.mark.parametrize("agent", AGENTS)
def test_lost_message_is_made_up_for(agent: str, words: bytes, said: str, tmp_path: Path) -> None:
    """An answer that is lost comes when it is asked for, a request whose first line is lost is sent again; either way
    the command has run once."""
    with console(agent, tmp_path) as there:
        there.drop = words
        result = there.channel.start(DOM0, COUNT_RUNS.format(folder=tmp_path), DEADLINE_S).wait()
        assert (result.status, result.stdout) == (0, ".\n")
        assert there.dropped is not None
        (loss,) = there.channel.losses
        assert said in loss


@pytest.mark.parametrize("agent", AGENTS)
def test_deadline_ends_a_command(agent: str, tmp_path: Path) -> None:
    """The agent ends a command whose time is over, and says so."""
    with console(agent, tmp_path) as there:
        assert there.channel.start(DOM0, "sleep 60", 1.0).wait().status is None
