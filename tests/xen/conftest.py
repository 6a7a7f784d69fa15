# SPDX-License-Identifier: GPL-2.0-or-later
"""One machine with real Xen for all tests of a session, its topologies, and its logs when a test fails."""

import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.harness import Machine, MachineSpec, boot, build_images
from tests.harness.cache import cache_folder
from tests.harness.images import compile_program
from tests.harness.kernel_module import build_module
from tests.harness.packages import REPOSITORY, fetch_debian_tree
from tests.harness.qemu import QEMU
from tests.harness.tools import find_tool
from tests.xen import topology
from tests.xen.topology import Topology

LOGS = REPOSITORY / "build" / "xen-logs"
HERE = Path(__file__).parent
C_HELPERS = REPOSITORY / "c_helpers"
MACHINE = pytest.StashKey[Machine]()


@pytest.fixture(scope="session")
def xen_payload(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Programs for the machine, by their names below /opt/shadowvq/payload."""
    find_tool(QEMU)  # before minutes are spent on what would need it
    tree = fetch_debian_tree(cache_folder())
    seam_check = tmp_path_factory.mktemp("payload") / "seam_check"
    sources = [HERE / "seam_check.c", *sorted((C_HELPERS / "src").glob("hv*.c"))]
    sources += sorted((C_HELPERS / "src").glob("xen_*.c")) + sorted((C_HELPERS / "src").glob("sim_*.c"))
    includes = [f"-I{C_HELPERS / 'include'}", f"-I{C_HELPERS / 'src'}"]
    compile_program(tree, sources, seam_check, *includes, "-pthread", "-ldl")
    return {
        "seam_check": seam_check,
        "operator_server.py": HERE / "operator_server.py",
        "virtio_xenbus.ko": build_module(cache_folder(), tree, tmp_path_factory.mktemp("module")),
    }


@pytest.fixture(scope="session")
def xen(
    xen_payload: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    """A machine on which Xen and dom0 have booted. A test leaves no guest behind."""
    cache = cache_folder()
    images = build_images(cache, tmp_path_factory.mktemp("images"), payload=xen_payload)
    with boot(images, MachineSpec(), LOGS / "session", lock=cache / "machine.lock") as machine:
        request.config.stash[MACHINE] = machine
        yield machine


@pytest.fixture(scope="session")
def separate(xen: Machine) -> Iterator[Topology]:
    """The mediator in a PV domain of its own, the backend in a driver domain, one guest."""
    with topology.separate(xen) as running:
        yield running


@pytest.fixture(scope="session")
def together(xen: Machine) -> Iterator[Topology]:
    """Mediator and backend in dom0, two guests."""
    with topology.together(xen) as running:
        yield running


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
