# SPDX-License-Identifier: GPL-2.0-or-later
"""Logs that cannot be written, and peers that cause lines: nobody ends or waits, and lines left out are counted."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import structlog
from structlog.typing import EventDict

from xen_shadowvq import log
from xen_shadowvq.log_limit import KEYS_MAX, OF_A_DEVICE, OF_A_PEER, PeerLines
from xen_shadowvq.log_sink import Sink


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(fd: int) -> list[str]:
    """What can be read now."""
    os.set_blocking(fd, False)
    return os.read(fd, 1 << 20).decode().splitlines()


def fill(fd: int) -> None:
    """Writes until the pipe takes nothing more."""
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(fd, True)


def test_a_full_disk_and_no_stream() -> None:
    """Where every write fails, or there is nothing to write to, a logger goes on as if nothing were."""
    with Path("/dev/full").open("w") as full:
        log.configure(stream=full)
        log.get_logger().info("unheard")
    structlog.reset_defaults()
    Sink(None, str).msg("unheard")


def test_a_reader_that_sleeps_and_one_that_left() -> None:
    """A pipe that nobody reads holds up no one; as soon as it is read, a line says how many were lost. When the reader
    has left, lines are lost."""
    reader, writer = os.pipe()
    fill(writer)
    with os.fdopen(writer, "w") as stream:
        log.configure(stream=stream)
        logger = log.get_logger()
        for _ in range(1000):
            logger.info("unheard")
        assert {line.strip("x") for line in lines_of(reader)} == {""}
        logger.info("heard")
        first, second = (json.loads(line) for line in lines_of(reader))
        assert (first["event"], first["lines"], first["level"]) == ("log_lines_lost", 1000, "warning")
        assert second["event"] == "heard"
        os.close(reader)
        logger.info("unheard")


def test_a_line_that_went_out_in_part_spoils_no_other() -> None:
    """When a pipe fills in the middle of a line, the next line that it takes begins a line of its own."""
    reader, writer = os.pipe()
    fill(writer)
    os.read(reader, 4096)
    with os.fdopen(writer, "w") as stream:
        sink = Sink(stream, lambda lines: f"lost {lines}")
        sink.msg("y" * 10000)
        assert lines_of(reader)[0].strip("x") == "y" * 4096
        sink.msg("whole")
        assert lines_of(reader) == ["", "lost 1", "whole"]
        os.close(reader)


def said(lines: PeerLines, **facts: int) -> EventDict | None:
    """The event, None when it was left out."""
    try:
        return lines(None, "info", {"event": "happened", **facts})
    except structlog.DropEvent:
        return None


def test_a_peers_lines_are_limited_and_counted() -> None:
    """A device's lines come in a burst and then at its rate, whatever the events are; the next one says how many were
    left out, also by a limit before this one. Lines about nobody, and those of other peers, are not touched."""
    clock = Clock()
    lines = PeerLines(clock)
    burst, per_s = OF_A_DEVICE
    assert all(said(lines, domid=3, device=0) for _ in range(burst))
    assert [said(lines, domid=3, device=0), said(lines, peer=3, device=0, left_out=4)] == [None, None]
    assert said(lines, domid=4, device=0) == {"event": "happened", "domid": 4, "device": 0}
    assert all(said(lines) for _ in range(10 * burst))
    clock.now = 1 / per_s
    assert said(lines, domid=3, device=0) == {"event": "happened", "domid": 3, "device": 0, "left_out": 6}
    assert said(lines, domid=3, device=0) is None


def test_every_line_about_a_peer_is_limited() -> None:
    """Whatever is logged about a peer, by whatever logger, it fills no disk."""
    out = io.StringIO()
    log.configure(stream=out)
    logger = log.get_logger(domid=3, device=0)
    for number in range(1000):
        logger.warning(f"event_{number}", reason="x" * 100)
    assert OF_A_DEVICE[0] <= len(out.getvalue().splitlines()) < 2 * OF_A_DEVICE[0]


def test_many_devices_of_a_peer_are_limited_together() -> None:
    """A peer with many devices does not get that many times the lines."""
    lines = PeerLines(Clock())
    assert sum(said(lines, domid=3, device=n % 100) is not None for n in range(10000)) == OF_A_PEER[0]


def test_what_is_remembered_is_bounded() -> None:
    """Ids that peers choose cannot make it grow without end."""
    lines = PeerLines(Clock())
    for number in range(2 * KEYS_MAX):
        said(lines, domid=number % 32000, device=number)
    assert len(lines._accounts) <= KEYS_MAX
