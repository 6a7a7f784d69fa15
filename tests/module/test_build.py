# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's kernel module builds, without a warning, for Debian 12's kernel and for the newest that can be had."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness.cache import cache_folder
from tests.harness.packages import (
    REPOSITORY,
    fetch_debian_tree,
    fetch_dkms,
    fetch_kernel_headers,
    newest_kernel_release,
)

pytestmark = pytest.mark.module

MODULE = REPOSITORY / "domU_frontend" / "module"
NODES = REPOSITORY / "xenstore_schema" / "include"
SOURCES = ("*.c", "*.h", "Kbuild", "Makefile", "dkms.conf")


@pytest.fixture(scope="module", params=["Debian 12's", "the newest"])
def kernel_build(request: pytest.FixtureRequest) -> Path:
    """The build directory of a kernel's headers: that of Debian 12, which the tests on Xen run, or of the newest."""
    cache = cache_folder()
    own = request.param == "Debian 12's"
    return fetch_kernel_headers(cache, fetch_debian_tree(cache).kernel_release if own else newest_kernel_release())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the module is built from, in the places that it has in the tree; the module's folder."""
    module = tmp_path / "domU_frontend" / "module"
    module.mkdir(parents=True)
    for pattern in SOURCES:
        for source in MODULE.glob(pattern):
            if not source.name.endswith(".mod.c"):
                shutil.copy(source, module)
    shutil.copytree(NODES, tmp_path / "xenstore_schema" / "include")
    return module


def make(folder: Path, *arguments: str) -> str:
    """Runs make and gives its output, which a failing test shows."""
    done = subprocess.run(
        ["make", "-C", str(folder), *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def undefined_symbols(module: Path) -> set[str]:
    """What the module takes from the kernel."""
    done = subprocess.run(["nm", "-u", str(module)], capture_output=True, text=True, check=True)  # noqa: S607
    return {line.split()[-1] for line in done.stdout.splitlines()}


def test_builds_without_warnings_and_grants_nothing(tree: Path, kernel_build: Path) -> None:
    """The tree's sources build with W=1 and no warning, and the module takes no function from the kernel that grants
    anything: only those that reserve grant references."""
    output = make(tree, f"KDIR={kernel_build}", "W=1")
    assert "warning:" not in output, output
    assert "undefined!" not in output, output
    symbols = undefined_symbols(tree / "virtio_xenbus.ko")
    assert "register_virtio_device" in symbols
    assert {name for name in symbols if "gnttab" in name or "grant" in name} == {
        "gnttab_alloc_grant_reference_seq",
        "gnttab_free_grant_reference_seq",
        "gnttab_max_grant_frames",
    }


@pytest.fixture
def sources(tree: Path, tmp_path: Path) -> Path:
    """The folder that source-install puts into /usr/src."""
    make(tree, "source-install", f"DESTDIR={tmp_path / 'root'}")
    (folder,) = (tmp_path / "root" / "usr" / "src").iterdir()
    return folder


def test_builds_as_dkms_does(sources: Path, kernel_build: Path) -> None:
    """What source-install puts into /usr/src is complete: it builds by itself with the commands of dkms.conf."""
    conf = dict(re.findall(r'^([A-Z_]+)(?:\[0\])?="(.*)"$', (sources / "dkms.conf").read_text(), re.MULTILINE))
    assert sources.name == f"{conf['PACKAGE_NAME']}-{conf['PACKAGE_VERSION']}"
    program, *arguments = conf["MAKE"].replace("${kernel_source_dir}", str(kernel_build)).split()
    assert program == "make"
    make(sources, *arguments)
    assert (sources / f"{conf['BUILT_MODULE_NAME']}.ko").exists()
    _, *arguments = conf["CLEAN"].replace("${kernel_source_dir}", str(kernel_build)).split()
    make(sources, *arguments)
    assert not list(sources.glob("*.ko"))


def test_dkms_builds_and_installs_it(sources: Path, kernel_build: Path, tmp_path: Path) -> None:
    """DKMS itself builds the module from there, installs it, and removes it again."""
    state, installed = tmp_path / "dkms", tmp_path / "modules"
    release = kernel_build.name.removeprefix("linux-headers-")
    state.mkdir()
    (installed / release).mkdir(parents=True)

    def dkms(*words: str) -> None:
        name, _, version = sources.name.rpartition("-")
        command: list[str | Path] = ["bash", fetch_dkms(cache_folder()), *words, "-m", name, "-v", version]
        command += ["-k", release, "-a", "x86_64", "--dkmstree", state, "--sourcetree", sources.parent]
        command += ["--installtree", installed, "--no-depmod"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr

    dkms("build", "--kernelsourcedir", str(kernel_build))
    dkms("install")
    (module,) = installed.rglob("virtio_xenbus.ko*")
    assert module.parent == installed / release / "updates" / "dkms"
    dkms("remove")
    assert not list(installed.rglob("*.ko*"))


def test_only_compat_tests_the_kernel_version() -> None:
    """Differences between kernels are in compat.h and nowhere else."""
    testing = {
        source.name
        for pattern in ("*.c", "*.h")
        for source in MODULE.glob(pattern)
        if "LINUX_VERSION_CODE" in source.read_text() or "KERNEL_VERSION" in source.read_text()
    }
    assert testing == {"compat.h"}
