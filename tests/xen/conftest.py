# SPDX-License-Identifier: GPL-2.0-or-later
"""One machine with real Xen for all tests of a process, which tests a process gets, and the logs of a failure."""

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path, PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.harness import Machine, MachineSpec, boot
from tests.harness.cache import cache_folder
from tests.harness.packages import REPOSITORY
from tests.harness.qemu import machines_at_once
from tests.xen.payload import build_machine_images
from tests.xen.remote import Remote
from tests.xen.report import Note

HERE = Path(__file__).parent
LINES_SHOWN = 20
TOPOLOGIES = {"together", "separate"}  # the fixtures that bring services and guests
FILES_OF_THIS_FOLDER = 3  # parts of their paths: each has a machine for itself
LOGS = REPOSITORY / "build" / "xen-logs"
MACHINE = pytest.StashKey[Machine]()


class MessageLost(pytest.PytestWarning):
    """A console has lost something: the harness copes, but it is not to go unseen."""


@pytest.fixture(scope="session")
def xen(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine on which Xen and dom0 have booted. A test leaves no guest behind."""
    images = build_machine_images(tmp_path_factory.mktemp("machine"))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    with boot(images, MachineSpec(), LOGS / f"session{worker}", cache=cache_folder()) as machine:
        request.config.stash[MACHINE] = machine
        yield machine


@pytest.fixture(scope="session")
def observer(xen: Machine) -> Remote:
    """Watches the rule on this machine, from the first test with a guest that has a disk on."""
    return Remote(xen, "observer")


@pytest.fixture(autouse=True)
def observed(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test fails if a guest has been told that it has its buffers back and any of them can be reached."""
    if not TOPOLOGIES & set(request.fixturenames):
        yield
        return
    observer: Remote = request.getfixturevalue("observer")
    yield
    found = observer.call("take")["found"]
    assert found == [], found


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: one process for each machine that can run here, at most two: nearly all tests are in two folders."""
    return min(2, machines_at_once(MachineSpec()))


@pytest.fixture
def note(capsys: pytest.CaptureFixture[str]) -> Note:
    """Says how far a long test is (not from a process of `-n`)."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="")

    return say


class ByFolder(LoadScopeScheduling):
    """The tests of a folder below stay on one machine, in their order: they share its domains."""

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.partition("::")[0])
        return str(file.parent if len(file.parts) > FILES_OF_THIS_FOLDER else file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """What each of the processes of `-n` is given."""
    return ByFolder(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collects the machine's logs into build/xen-logs/TEST when a test fails, while its guests may still be there."""
    report = yield
    machine = item.config.stash.get(MACHINE, None)
    while machine is not None and machine.channel.losses:
        item.warn(MessageLost(f"sent twice: {machine.channel.losses.pop(0)}"))
    if report.failed and machine is not None:
        folder = LOGS / re.sub(r"[^\w.-]+", "_", item.name)
        machine.collect_logs(folder)
        report.sections.append(("real Xen", f"logs: {folder.relative_to(REPOSITORY)}\n{_ends(folder)}"))
    return report


def _ends(folder: Path) -> str:
    """The ends of the logs that most often tell: all that is left of a failure on a machine which is thrown away."""
    files = [folder / "journal.txt", folder / "xl-list.txt", *folder.glob("*-log.txt"), *folder.glob("*-processes.txt")]
    return "\n".join(
        "\n".join([f"--- the end of {file.name}:", *file.read_text().splitlines()[-LINES_SHOWN:]])
        for file in files
        if file.exists()
    )
