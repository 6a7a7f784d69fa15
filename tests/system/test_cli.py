# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line as an operator meets it: help, configuration files, listings, and errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .command import ask, ctl, run
from .conftest import Connect, connector
from .world import BACKEND, FRONTEND, MEDIATOR, OTHER, World

HELP = {
    (): ["demo", "mediator", "backend", "ctl", "check-config"],
    ("mediator",): ["Run the mediator", "--config", "--sim", "SIGTERM"],
    ("backend",): ["Run the backend", "--sim", "--config", "--log-level"],
    ("check-config",): ["Check a mediator's configuration file", "--json"],
    ("guests",): ["declared disks", "--directory", "SIGHUP", "SIGTERM", "every disk stays as it is"],
    ("ctl",): ["attach", "detach", "resize", "list", "status", "sweep", "trace", "apply", "dom0"],
    ("ctl", "apply"): ["GUEST", "declared", "--dry-run", "by hand", "Exit status", "--json"],
    ("ctl", "attach"): ["IMAGE", "--frontend", "--read-only", "--queues", "--placement"],
    ("ctl", "detach"): ["DEVICE", "requests in flight complete first", "keeps pages mapped", "--timeout"],
    ("ctl", "sweep"): ["FRONTEND", "mediators that are gone", "status 1", "--json"],
    ("ctl", "resize"): ["image", "a new size", "without a reboot", "--timeout"],
    ("ctl", "list"): ["every device", "--json"],
    ("ctl", "status"): ["counters", "--json", "--timeout"],
    ("ctl", "trace"): ["DEVICE", "a check refused", "--queue", "--every", "--json", "--timeout"],
    ("demo",): ["Run the whole product", "--image", "--placement", "--window", "--output"],
    ("bench",): ["Measure", "--rounds", "--output"],
    ("bench-fairness",): ["hostile frontend", "same worker", "--rounds", "--attack", "--output"],
}


@pytest.fixture
def connect(shared_world: World) -> Iterator[Connect]:
    """Like the fixture of conftest.py, but in the world that this module shares."""
    with ExitStack() as stack:
        yield connector(shared_world, stack)


@pytest.fixture(scope="module", autouse=True)
def alive(shared_world: World) -> None:
    """Frontend domains outlive the tests' frontends."""
    shared_world.keep_alive(FRONTEND)
    shared_world.keep_alive(OTHER)


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_says_what_a_command_does(command: tuple[str, ...]) -> None:
    """--help of every command ends with status 0 and names its purpose and its options."""
    done = ask(*command, "--help")
    assert (done.status, done.err) == (0, "")
    text = " ".join(done.out.split())
    assert [word for word in HELP[command] if word not in text] == []


def test_check_config_shows_a_good_file_with_its_defaults(tmp_path: Path) -> None:
    """A good file: status 0, and every key with what is in force; the same as JSON."""
    path = tmp_path / "good.yaml"
    path.write_text("workers:\n  count: 2\n")
    done = ask("check-config", str(path))
    assert done.status == 0 and done.out.startswith(f"{path}: valid\n")
    found = json.loads(ask("check-config", "--json", str(path)).out)
    assert found["workers"]["count"] == 2 and found["defaults"]["placement"] == "exact"


def test_check_config_names_every_mistake(tmp_path: Path) -> None:
    """A bad file: status 2, and a line for each mistake with file, line, key, value and what was expected."""
    path = tmp_path / "bad.yaml"
    path.write_text("workers:\n  count: none\ndefaults:\n  placement: exat\nlimit: {}\n")
    done = ask("check-config", str(path))
    assert (done.status, done.out) == (2, "")
    lines = done.err.splitlines()
    assert len(lines) == 3
    assert any(f"{path}:2: workers.count: got 'none', expected a whole number" in line for line in lines)
    assert any(f"{path}:4: defaults.placement: got 'exat', expected one of exact, page, copy" in line for line in lines)
    assert any(f"{path}:5: limit: no such key; did you mean limits?" in line for line in lines)


def test_a_service_does_not_start_with_a_bad_file(shared_world: World, tmp_path: Path) -> None:
    """The mediator refuses a file that is missing or wrong as check-config does, with status 2 and no traceback."""
    missing = tmp_path / "missing.yaml"
    done = run("mediator", "--sim", str(shared_world.sim), "--config", str(missing))
    assert done.status == 2 and str(missing) in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("arguments", [("mediator",), ("backend",), ("ctl", "list")], ids=" ".join)
def test_a_machine_that_is_not_there_is_named(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Without the embedded machine each program ends with status 2 and one line that names what it looked for."""
    done = run(*arguments, "--sim", str(tmp_path))
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1 and str(tmp_path) in done.err


def test_list_and_status(shared_world: World, connect: Connect) -> None:
    """`list` shows each device with both legs' states, `status` the mediator's counters; both as JSON as well."""
    world = shared_world
    assert ctl(world, "list").out == "no devices; `shadowvq ctl attach` makes one\n"
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    line = ctl(world, "list").out
    legs = f"mediator {MEDIATOR} (dom{MEDIATOR}): Connected  backend {BACKEND} (dom{BACKEND}): Connected"
    assert line == f"frontend {FRONTEND} (dom{FRONTEND})  device {device}  {legs}\n"
    (entry,) = json.loads(ctl(world, "list", "--json").out)
    expected = {"frontend": FRONTEND, "state": "Connected", "backend_state": "Connected", "error": None}
    assert {key: entry[key] for key in expected} == expected
    counters = json.loads(ctl(world, "status", str(FRONTEND), str(device), "--json").out)
    assert counters["state"] == "connected" and counters["window"] == "direct" and counters["mediator_ports_live"] > 0
    assert "completions" in ctl(world, "status", str(FRONTEND), str(device)).out
    frontend.disconnect()
    world.detach(device)


def test_status_of_a_connection_that_is_over(shared_world: World, connect: Connect) -> None:
    """Counters of a connection are shown while it is there, and not after it."""
    world = shared_world
    device = world.attach(world.image("disk.img"))
    frontend = connect(device)
    of_a_connection = {"chains", "window", "window_in_use", "backend_reads"}
    arguments = ("status", str(FRONTEND), str(device), "--json")
    assert of_a_connection <= json.loads(ctl(world, *arguments).out).keys()
    frontend.disconnect()
    after = json.loads(ctl(world, *arguments).out)
    assert after["state"] == "closed" and not of_a_connection & after.keys()
    world.detach(device)


def test_unknown_domains_and_devices_are_named(shared_world: World) -> None:
    """Asking for a domain or device that is not there: status 2, and one line that says which."""
    image = str(shared_world.image("disk.img", 1))
    for role, arguments in {
        "frontend: there is no domain 77": ("attach", "--frontend=77", image),
        "mediator: there is no domain 78": ("attach", f"--frontend={FRONTEND}", "--mediator=78", image),
        "backend: there is no domain 79": ("attach", f"--frontend={FRONTEND}", "--mediator=1", "--backend=79", image),
        "domain 77 has no device 0": ("status", "77", "0"),
        f"domain {FRONTEND} (dom{FRONTEND}) has no device 5": ("detach", str(FRONTEND), "5"),
    }.items():
        done = ctl(shared_world, *arguments)
        assert (done.status, done.out) == (2, "")
        assert len(done.err.splitlines()) == 1 and role in done.err


def test_a_relative_image_is_refused(shared_world: World) -> None:
    """An image path that is not absolute would mean something else in the backend: status 2, and what was expected."""
    done = ctl(shared_world, "attach", f"--frontend={FRONTEND}", "--mediator=1", "--backend=2", "disk.img")
    assert done.status == 2 and len(done.err.splitlines()) == 1
    assert "params" in done.err and "an absolute path" in done.err


def test_services_that_do_not_run_are_missed(empty_world: World) -> None:
    """Without the mediator, attach and status end with status 2 and say that its service may not be running."""
    world = empty_world
    world.start_backend()
    path = str(world.image("disk.img", 1))
    where = (f"--frontend={OTHER}", f"--mediator={MEDIATOR}", f"--backend={BACKEND}")
    done = ctl(world, "attach", *where, "--timeout=0.5", path)
    assert done.status == 2 and "are both services running?" in done.err
    assert ctl(world, "attach", *where, "--no-wait", path).status == 0
    done = ctl(world, "status", str(OTHER), "0", "--timeout=0.5")
    assert done.status == 2 and "does not answer; is its service running?" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("runs", ["neither", "backend", "mediator"])
def test_attach_that_nobody_takes_up_leaves_nothing(runs: str, empty_world: World) -> None:
    """Where a service does not run, `ctl attach` says so and takes the device away again, and so does the next one: two
    tries do not make two disks. When both run, the disk is the first of the guest."""
    world = empty_world
    start: dict[str, Callable[[], object]] = {"backend": world.start_backend, "mediator": world.start_mediator}
    for service in [runs] if runs in start else []:
        start.pop(service)()
    image = str(world.image("disk.img"))
    where = [f"--sim={world.sim}", f"--frontend={FRONTEND}", f"--mediator={MEDIATOR}", f"--backend={BACKEND}", image]
    for timeout in ("0.01", "0.3"):
        done = ask("ctl", "attach", *where, "--timeout", timeout)
        assert done.status == 2
        (line,) = done.err.splitlines()
        assert "nobody took it up" in line
        assert ask("ctl", "list", f"--sim={world.sim}").out.startswith("no devices")
        world.until(lambda: world.store.ls(f"/local/domain/{BACKEND}/backend/svq/{MEDIATOR}") == [], "end of its half")
    for begin in start.values():
        begin()
    assert json.loads(ask("ctl", "attach", *where, "--json").out)["device"] == 0
