# SPDX-License-Identifier: GPL-2.0-or-later
"""One machine with real Xen for all tests of a session, and its logs when a test fails."""

import re
from collections.abc import Generator, Iterator

import pytest

from tests.harness import Machine, MachineSpec, boot
from tests.harness.cache import cache_folder
from tests.harness.packages import REPOSITORY
from tests.xen.payload import build_machine_images

LOGS = REPOSITORY / "build" / "xen-logs"
MACHINE = pytest.StashKey[Machine]()


@pytest.fixture(scope="session")
def xen(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine on which Xen and dom0 have booted. A test leaves no guest behind."""
    cache = cache_folder()
    images = build_machine_images(tmp_path_factory.mktemp("machine"))
    with boot(images, MachineSpec(), LOGS / "session", lock=cache / "machine.lock") as machine:
        request.config.stash[MACHINE] = machine
        yield machine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collects the machine's logs into build/xen-logs/TEST when a test fails, while its guests may still be there."""
    report = yield
    machine = item.config.stash.get(MACHINE, None)
    if report.failed and machine is not None:
        folder = LOGS / re.sub(r"[^\w.-]+", "_", item.name)
        machine.collect_logs(folder)
        report.sections.append(("real Xen", f"logs: {folder.relative_to(REPOSITORY)}"))
    return report
