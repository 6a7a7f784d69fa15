# SPDX-License-Identifier: GPL-2.0-or-later
"""`shadowvq ctl trace`: what an operator sees who looks for a stuck request."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from domU_frontend import blk
from domU_frontend.hostile.attacks import HostileDriver
from xen_shadowvq.trace import QueueTrace, TraceEvent
from xenstore_schema import nodes

from .command import ctl
from .conftest import Connect
from .disk_io import one
from .world import FRONTEND, FRONTEND_MIB, MIB, World

PAGES = 1024
LENGTH = 1 << 16
HEADER_AND_STATUS = 16 + 1


def trace(world: World, *options: str) -> dict[str, Any]:
    """What it says of device 0, for machines."""
    done = ctl(world, "trace", str(FRONTEND), "0", "--json", *options)
    assert done.status == 0, done.err
    told: dict[str, Any] = json.loads(done.out)
    return told


def test_a_request_that_the_backend_keeps(world: World, connect: Connect) -> None:
    """While the backend does not answer, the trace says which chain it has and that nothing else is the matter; chains
    that are traced on request are there with where their parts went; when the backend goes on, none is in flight."""
    frontend = connect(world.attach(world.image("disk.img")), pages=PAGES)
    before = trace(world, "--every=1")
    assert (before["connection"], before["state"], before["in_flight"], before["events"]) == ("live", "running", 0, [])
    with ThreadPoolExecutor(1) as pool:
        world.backend.stop()
        reading = pool.submit(one, frontend, blk.IN, 0, LENGTH)
        try:
            world.until(lambda: trace(world)["in_flight"], "request at the backend")
            stuck, plain = trace(world), ctl(world, "trace", str(FRONTEND), "0").out
        finally:
            world.backend.resume()
            reading.result()
    (event,) = stuck["events"]
    assert stuck["heads"] == [event["head"]]
    assert (stuck["available"], stuck["used"], stuck["every"]) == (0, 0, 1)
    assert (event["event"], event["code"]) == ("forwarded", None)
    assert event["parts"] == event["granted"] + event["copied"]
    assert event["bytes"] == LENGTH + HEADER_AND_STATUS
    assert 0 < event["pages"] <= LENGTH // blk.PAGE
    assert f"in flight at the backend: 1 (heads {event['head']})" in plain
    assert "forwarded" in plain

    world.until(lambda: not trace(world)["in_flight"], "end of the request")
    kinds = [event["event"] for event in trace(world, "--every=0")["events"]]
    assert kinds == ["forwarded", "completed"]
    one(frontend, blk.IN, 0)
    assert len(trace(world)["events"]) == len(kinds)


def test_the_chain_that_broke_a_device(world: World, connect: Connect) -> None:
    """A chain that a check refused is in the trace unasked, with its head and the check's code, and still is after the
    device has closed, and until the next connection."""
    frontend = connect(world.attach(world.image("disk.img")), pages=PAGES, queue_size=64)
    HostileDriver(frontend, FRONTEND_MIB * MIB).offer(65)
    frontend.wait_closed()
    told = trace(world)
    assert told["connection"] == "ended"
    (event,) = told["events"]
    assert (event["event"], event["head"], event["code"]) == ("refused", 65, "SVQ_E_HEAD_RANGE")
    assert "SVQ_E_HEAD_RANGE" in ctl(world, "trace", str(FRONTEND), "0").out
    frontend.reconnect()
    told = trace(world)
    assert (told["connection"], told["events"]) == ("live", [])


def test_queues_are_traced_one_by_one(world: World, connect: Connect) -> None:
    """Each queue has a trace of its own; one that the device does not have is refused, with how many there are."""
    connect(world.attach(world.image("disk.img"), queues=3), pages=PAGES, queues=3)
    assert [trace(world, f"--queue={n}")["queue"] for n in range(3)] == [0, 1, 2]
    done = ctl(world, "trace", str(FRONTEND), "0", "--queue=3")
    assert done.status == 2
    assert "has 3 queues, counted from 0" in done.err


def test_before_a_connection_and_without_a_mediator(world: World) -> None:
    """A device that was never connected has an empty trace; where no mediator answers, the error says so."""
    world.attach(world.image("disk.img"))
    assert trace(world)["connection"] == "none"
    world.mediator.stop()
    done = ctl(world, "trace", str(FRONTEND), "0", "--timeout=0.2")
    world.mediator.resume()
    assert done.status == 2
    assert "does not answer" in done.err


def test_a_mediator_that_answers_for_another_queue(world: World) -> None:
    """Whatever a mediator's domain answers, the command ends in its time and says that there was no answer."""
    world.attach(world.image("disk.img"))
    path = world.found(0).path
    world.mediator.stop()
    lie = {"nonce": 2**31 - 1, **QueueTrace(queue=1, queues=2, connection="live", every=0).packed()}
    world.store.write(nodes.VirtioBack.TRACE.path(path), nodes.VirtioBack.TRACE.format(lie))
    done = ctl(world, "trace", str(FRONTEND), "0", "--timeout=0.3")
    world.mediator.resume()
    assert done.status == 2
    assert "does not answer" in done.err


def test_a_long_trace_fits() -> None:
    """Whatever the numbers, what goes into XenStore fits there: the latest events, with which it comes back."""
    most = 2**64 - 1
    longest: dict[str, Any] = {name: most for name in TraceEvent.model_fields}
    events = tuple(
        TraceEvent(**{**longest, "number": n, "event": "forwarded", "code": "SVQ_E_WRITABLE_BEFORE_READABLE"})
        for n in range(64)
    )
    whole = QueueTrace(
        queue=63, queues=64, connection="live", every=most, state="draining", in_flight=1024,
        heads=tuple(range(992, 1024)), available=most, used=most, events=events,
    )  # fmt: skip
    packed = {"nonce": 2**32 - 1, **whole.packed()}
    nodes.VirtioBack.TRACE.parse(nodes.VirtioBack.TRACE.format(packed), "trace")
    back = QueueTrace.unpacked({key: value for key, value in packed.items() if key != "nonce"})
    assert back is not None
    assert back.events == events[-len(back.events) :] != ()
    assert QueueTrace.unpacked({**packed, "events": [[1]]}) is None
    assert QueueTrace.unpacked({"state": "\x1b[2J"}) is None
