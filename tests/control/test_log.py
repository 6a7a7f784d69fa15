# SPDX-License-Identifier: GPL-2.0-or-later
"""Logging: the two forms, the level, and the guard against a peer that causes lines."""

from __future__ import annotations

import io
import json
import threading

import pytest
from structlog.testing import capture_logs

from xen_shadowvq import log
from xen_shadowvq.errors import (
    ConfigError,
    DeviceBroken,
    HypervisorError,
    ImageError,
    PeerProtocolError,
    ShadowVQError,
    XenStoreError,
    XenStoreGone,
    XenStoreTimeout,
)

from .conftest import Terminal


def test_json_off_a_terminal() -> None:
    """Off a terminal each line is one JSON object with the event, its facts, the level and a time in UTC."""
    out = io.StringIO()
    log.configure(stream=out)
    log.get_logger(domid=3).info("device_connected", device=0)
    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "device_connected", "domid": 3, "device": 0, "level": "info"}


def test_readable_on_a_terminal() -> None:
    """On a terminal lines are for people."""
    out = Terminal()
    log.configure(stream=out)
    log.get_logger().info("device_connected", device=0)
    assert "device_connected" in out.getvalue()
    assert not out.getvalue().startswith("{")


@pytest.mark.parametrize(("chosen", "stream"), [("json", Terminal()), ("console", io.StringIO())])
def test_form_can_be_chosen(chosen: log.Format, stream: io.StringIO) -> None:
    """The configured form overrides what the stream is."""
    log.configure(log_format=chosen, stream=stream)
    log.get_logger().info("started")
    assert stream.getvalue().startswith("{") == (chosen == "json")


def test_level() -> None:
    """Lines below the configured level are not written."""
    out = io.StringIO()
    log.configure(level="warning", stream=out)
    logger = log.get_logger()
    logger.info("quiet")
    logger.warning("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


def test_exceptions_are_written() -> None:
    """A logged exception brings its traceback, in one line of JSON."""
    out = io.StringIO()
    log.configure(stream=out)
    try:
        raise XenStoreGone("closed")
    except XenStoreGone:
        log.get_logger().exception("lost")
    (line,) = out.getvalue().splitlines()
    assert "XenStoreGone: closed" in json.loads(line)["exception"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rate_limit_per_key() -> None:
    """One line per key per interval gets through, and the next says how many were left out before it."""
    clock = Clock()
    limited = log.RateLimited(10.0, clock)
    assert [limited.admit("a"), limited.admit("a"), limited.admit("a"), limited.admit("b")] == [
        0,
        None,
        None,
        0,
    ]
    clock.now = 9.9
    assert limited.admit("a") is None
    clock.now = 10.0
    assert limited.admit("a") == 3
    assert limited.admit("a") is None
    clock.now = 20.0
    assert limited.admit("a") == 1


def test_rate_limited_warning() -> None:
    """The helper logs what is admitted, with the number left out, and keeps events apart as well as keys."""
    clock = Clock()
    limited = log.RateLimited(1.0, clock)
    with capture_logs() as lines:
        logger = log.get_logger()
        assert limited.warning(logger, "bad_descriptor", key=(3, 0), code="loop")
        assert not limited.warning(logger, "bad_descriptor", key=(3, 0), code="loop")
        assert limited.warning(logger, "bad_descriptor", key=(4, 0), code="loop")
        assert limited.warning(logger, "bad_node", key=(3, 0))
        clock.now = 1.0
        assert limited.warning(logger, "bad_descriptor", key=(3, 0), code="loop")
    assert [line.get("left_out") for line in lines] == [None, None, None, 1]


def test_rate_limit_forgets_the_oldest_key() -> None:
    """Keys that a peer invents cannot make it grow without end; the busiest key stays limited."""
    limited = log.RateLimited(10.0, Clock())
    assert limited.admit("busy") == 0
    for number in range(3 * log.KEYS_MAX):
        assert limited.admit(number) == 0
        assert limited.admit("busy") is None
    assert limited.admit(0) == 0


def test_rate_limit_between_threads() -> None:
    """However many threads ask at once, one line gets through."""
    limited = log.RateLimited(10.0, Clock())
    barrier = threading.Barrier(8)
    admitted: list[int | None] = []

    def ask() -> None:
        barrier.wait()
        admitted.extend(limited.admit("key") for _ in range(100))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(admitted, key=str) == [0, *[None] * 799]


def test_errors_say_who_and_what() -> None:
    """Each exception's text names its subject; a peer's value in it is escaped and short."""
    hostile = "\x1b[2J\n" + "A" * 5000
    peer = PeerProtocolError("/local/domain/3/x", hostile, "0 or 1")
    assert str(peer).startswith(r"/local/domain/3/x: got '\x1b[2J\nAAA")
    assert str(peer).endswith("'... (5005 long), expected 0 or 1")
    assert len(str(peer)) < 200
    assert str(PeerProtocolError("/x", None, "a path")) == "/x: got (absent), expected a path"
    assert ConfigError("one", "two").problems == ("one", "two")
    with pytest.raises(ValueError, match="at least one"):
        ConfigError()
    assert str(XenStoreError(13, "/x")) == "XenStore refused /x: Permission denied"
    assert str(HypervisorError("map_grants", 3, 22)) == "map_grants for domain 3 failed: Invalid argument"
    assert str(HypervisorError("open", None, 2)) == "open failed: No such file or directory"
    assert str(ImageError("/a.img", "is empty")) == "/a.img: is empty"
    assert str(DeviceBroken("bad_used_id", queue=0, id=7)) == "device broken: bad_used_id (queue 0, id 7)"
    for kind in (peer, XenStoreGone("x"), XenStoreTimeout("x"), ConfigError("x"), DeviceBroken("x")):
        assert isinstance(kind, ShadowVQError)
