# SPDX-License-Identifier: GPL-2.0-or-later
"""What hostile backends say, as dom0's operator sees it: the test plays the backend's service."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from xen_shadowvq.output import printable
from xenstore_schema import nodes

from .command import Done, ask
from .world import BACKEND, FRONTEND, MEDIATOR, World

FORGED = "\x1b[2J\r\nshadowvq: all is well\u202e\x9b"


def ctl(world: World, verb: str, *arguments: str) -> Done:
    """`shadowvq ctl`; whatever comes of it, each of its lines is harmless."""
    done = ask("ctl", verb, f"--sim={world.sim}", *arguments)
    for line in (done.out + done.err).split("\n"):
        assert line.isprintable(), ascii(line)
    return done


@contextmanager
def answering(world: World, directory: str, request: str, answer: str, words: str) -> Iterator[None]:
    """A backend that answers requests with a JSON object of these words."""
    over = threading.Event()

    def serve() -> None:
        while not over.wait(0.01):
            nonce = world.store.read(f"{directory}/{request}")
            if nonce is not None:
                world.store.write(f"{directory}/{answer}", f'{{"nonce":{nonce},{words}}}')

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def played(empty_world: World) -> tuple[World, int, str]:
    """The mediator serves; there is a device, whose backend's directory comes last."""
    empty_world.start_mediator()
    device = empty_world.attach(empty_world.image("disk.img"))
    return empty_world, device, nodes.svq_back_path(backend=BACKEND, mediator=MEDIATOR, handle=0)


def test_errors_of_a_backend(played: tuple[World, int, str]) -> None:
    """A backend's error with escape sequences and lines of its own is one line of `list` and of a failed `attach`."""
    world, _, back = played
    world.store.write(f"{back}/error", FORGED)
    done = ctl(world, "list")
    assert len(done.out.splitlines()) == 1 and f"error: {printable(FORGED)}" in done.out
    (entry,) = json.loads(ctl(world, "list", "--json").out)
    assert entry["error"] == printable(FORGED)

    def refuse() -> None:
        world.until(lambda: world.store.read(f"{back[:-1]}1/params"), "second device")
        world.store.write(f"{back[:-1]}1/error", FORGED)

    thread = threading.Thread(target=refuse)
    thread.start()
    domains = [f"--frontend={FRONTEND}", f"--mediator={MEDIATOR}", f"--backend={BACKEND}"]
    done = ctl(world, "attach", *domains, str(world.image("second.img")))
    thread.join()
    assert (done.status, done.out) == (2, "") and printable(FORGED) in done.err.splitlines()[0]
    assert all(line.startswith("shadowvq: ") for line in done.err.splitlines())
    assert "shadowvq: all is well" not in done.err.splitlines()


@pytest.mark.parametrize(("word", "shown"), [("\u4e2d", r"\u4e2d"), ("x", "x"), ("\x1b", r"\x1b")])
def test_a_long_error_of_a_backend_is_passed_on(world: World, word: str, shown: str) -> None:
    """
    However long a backend's error is, and in whatever script, the mediator says that the device is broken, and why; its
    log blames no quota.
    """
    device = world.attach(world.image("disk.img"))
    world.until_state(device, "InitWait")
    found = world.found(device)
    world.backend.stop()
    world.store.write(f"{found.backend_path}/error", word * (2000 // len(word.encode())))
    world.store.write(f"{found.backend_path}/state", "5")
    world.until(lambda: world.store.read(f"{found.path}/needs-reset") == "1", "needs-reset")
    error = nodes.VirtioBack.ERROR.read(world.store.read, found.path)
    assert error is not None and f"the backend in domain {BACKEND} says: {shown}{shown}" in error
    reasons = [event["reason"] for name in ("device_broken", "device_waits") for event in world.mediator.events(name)]
    assert reasons and not any("no more nodes" in reason for reason in reasons)
    assert all(len(reason) < 2048 for reason in reasons)
    world.backend.resume()


def test_statistics_of_a_backend(played: tuple[World, int, str]) -> None:
    """Of a backend's statistics those are shown whose names are names, and whose values are counters."""
    world, device, back = played
    untrusted = r'"requests":7,"\u001b[2J":1,"\ud800":2,"a\nb":3,"big":' + "9" * 1000 + ',"flag":true,"text":"x"'
    with answering(world, back, "stats-request", "stats", untrusted):
        done = ctl(world, "status", str(FRONTEND), str(device))
        shown = json.loads(ctl(world, "status", str(FRONTEND), str(device), "--json").out)
    assert done.status == 0, done.err
    names = [line.split()[0] for line in done.out.splitlines()]
    assert [name for name in names if name.startswith("backend_")] == ["backend_requests", "backend_state"]
    assert shown["backend_requests"] == 7


def test_a_lone_surrogate_in_an_answer(played: tuple[World, int, str]) -> None:
    """A backend's answer to a resize with a lone surrogate is an error of one line, no traceback."""
    world, device, back = played
    with answering(world, back, "resize-request", "resize", r'"error":"\ud800\u001b]0;owned\u0007"'):
        done = ctl(world, "resize", str(FRONTEND), str(device))
        assert (done.status, done.out) == (2, "")
        assert done.err == f"shadowvq: backend in domain {BACKEND} (dom{BACKEND}): \\ud800\\x1b]0;owned\\x07\n"
        assert json.loads(ctl(world, "resize", str(FRONTEND), str(device), "--json").out)["exit_status"] == 2


COUNTED = '"state":"connected","backend_state":"connected","held_pages":3'


def answering_as_mediator(world: World, device: int, node: str, words: str) -> AbstractContextManager[None]:
    """The mediator's service stands still, and its domain answers with these words."""
    world.mediator.stop()
    return answering(world, world.found(device).path, f"{node}-request", node, words)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ('"x":1', "'no state'"),
        ('"state":"connected","backend_state":"connected","held_pages":"many"', "'held_pages: \"many\"'"),
        ('"state":"connected","backend_state":"connected","held_pages":-1', "'held_pages: -1'"),
        ('"state":"connected","backend_state":"connected","held_pages":true', "'held_pages: true'"),
        ('"state":["x"],"backend_state":"connected","held_pages":0', "'state: "),
        (f'{COUNTED},"chains":{2**64}', "'chains: "),
        (f'{COUNTED},"chains":1.5', "'chains: 1.5'"),
        (f'{COUNTED},"note":"{"x" * 41}"', "'note: "),
        (f'{COUNTED},"note":"\\u001b[2J"', "'note: "),
        (f'{COUNTED},"a\\nb":1', "'a\\nb: 1'"),
        (f'{COUNTED},"backend_requests":1', "'backend_requests'"),
        (",".join([COUNTED, *(f'"n{n}":1' for n in range(150))]), "'153 fields'"),
    ],
)
def test_statistics_of_a_mediator(played: tuple[World, int, str], words: str, shown: str) -> None:
    """A mediator's answer that is no account of a device ends `status` with one line, and says who does that."""
    world, device, _ = played
    with answering_as_mediator(world, device, "stats", words):
        done = ctl(world, "status", str(FRONTEND), str(device), "--timeout=5")
        as_json = json.loads(ctl(world, "status", str(FRONTEND), str(device), "--timeout=5", "--json").out)
    world.mediator.resume()
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
    assert f"the mediator in domain {MEDIATOR} (dom{MEDIATOR}) answers nonsense" in done.err
    assert f"got {shown}" in done.err
    assert as_json["exit_status"] == 2


@pytest.mark.parametrize("held_by", ["0", '"0/../../x"', "null", "[]"])
def test_a_mediator_cannot_say_who_holds_pages(played: tuple[World, int, str], held_by: str) -> None:
    """Whose device it is, and who holds pages of it, is what dom0's record says, whatever the mediator answers."""
    world, device, _ = played
    words = f'{COUNTED},"held_by":{held_by},"frontend":"x","device":"x","backend":0'
    with answering_as_mediator(world, device, "stats", words):
        done = ctl(world, "status", str(FRONTEND), str(device))
        found = json.loads(ctl(world, "status", str(FRONTEND), str(device), "--json").out)
    world.mediator.resume()
    assert done.status == 0, done.err
    assert f"held: domain {BACKEND} (dom{BACKEND}) still has 3 pages of the guest mapped" in done.out
    known = {"frontend": FRONTEND, "device": device, "backend": BACKEND, "held_by": BACKEND}
    assert {name: found[name] for name in known} == known


def test_a_mediator_invents_a_device_whose_pages_somebody_holds(played: tuple[World, int, str]) -> None:
    """Of a device that dom0 has no record of, the mediator does not say which domain an operator should destroy."""
    world, _, _ = played
    invented = nodes.virtio_back_path(mediator=MEDIATOR, frontend=FRONTEND, device=7)
    for node, value in {"svq-handle": 9, "state": 4, "held-pages": 9, "online": 1}.items():
        world.store.write(f"{invented}/{node}", str(value))
    world.store.write(f"{nodes.svq_front_path(mediator=MEDIATOR, handle=9)}/backend-id", "0")
    done = ctl(world, "list")
    assert done.status == 0 and "xl destroy" not in done.out, done.out
    listed = json.loads(ctl(world, "list", "--json").out)
    assert [one["held_by"] for one in listed] == [None] * len(listed)
    world.store.rm(invented)


@pytest.mark.parametrize("words", ['"queue":0', '"queue":"x","events":7', '"queue":-1,"queues":1,"connection":"live"'])
def test_a_trace_of_a_mediator(played: tuple[World, int, str], words: str) -> None:
    """A mediator's answer that is no trace ends `trace` with one line, which says who answers nonsense."""
    world, device, _ = played
    with answering_as_mediator(world, device, "trace", words):
        done = ctl(world, "trace", str(FRONTEND), str(device), "--timeout=5")
    world.mediator.resume()
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
    assert f"the mediator in domain {MEDIATOR} (dom{MEDIATOR}) answers nonsense" in done.err
