# SPDX-License-Identifier: GPL-2.0-or-later
"""All that the machine boots from: slow parts from the cache, the project's own code made anew for each session."""

import gzip
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness import initramfs, kernel, rootfs
from tests.harness.cache import build_once, content_key, exclusive
from tests.harness.packages import REPOSITORY, DebianTree, fetch_debian_tree
from tests.harness.rootfs import compile_python, pack, python_requirements
from tests.harness.tools import run_tool

HARNESS = Path(__file__).parent
PYTHON_PACKAGES = ("xen_shadowvq", "xenstore_schema", "domU_frontend", "dom0_backend")
NATIVE_BUILD = REPOSITORY / "build" / "xen-native"


@dataclass(frozen=True)
class MachineImages:
    """Files that the machine boots from.

    `project` is mounted at /opt/shadowvq, in dom0 and in guests with a full userland: python/ has the
    project's packages with their native libraries, boot/ what guests boot from, harness/ the agent, payload/
    what the caller added.
    """

    tree: DebianTree
    hypervisor: Path
    kernel: Path
    initramfs: Path
    root: Path
    project: Path


def _build_base(cache: Path, tree: DebianTree) -> Path:
    """Returns the cache's folder of what changes only with Debian, the requirements, and the recipe."""
    recipes = [HARNESS / "rootfs.py", HARNESS / "kernel.py", tree.root / "packages.txt"]

    def make(folder: Path) -> None:
        with gzip.open(tree.hypervisor) as packed:
            (folder / "xen").write_bytes(packed.read())
        (folder / "vmlinux").write_bytes(kernel.unpack_kernel(tree.kernel))
        rootfs.build_rootfs(tree, folder / "stage", folder / "root.squashfs")
        shutil.rmtree(folder / "stage")

    return build_once(cache, "base", content_key(*recipes, *python_requirements()), make)


def _build_initramfs(cache: Path, tree: DebianTree) -> Path:
    recipes = [HARNESS / "initramfs.py", HARNESS / "kernel.py", *sorted(initramfs.GUEST_FILES.glob("*.sh"))]

    def make(folder: Path) -> None:
        (folder / "initramfs").write_bytes(initramfs.build_initramfs(tree))

    key = content_key(tree.root / "packages.txt", *recipes)
    return build_once(cache, "initramfs", key, make) / "initramfs"


def sysroot_flags(tree: DebianTree) -> list[str]:
    """Returns compiler flags that build against the machine's own C library and Xen headers, not the user's."""
    return [f"--sysroot={tree.root}", f"-B{tree.root}/usr/lib/x86_64-linux-gnu"]


def build_native(tree: DebianTree, prefix: Path) -> None:
    """Builds the project's C for the machine (incrementally) and installs it below `prefix`."""
    build = NATIVE_BUILD / tree.root.name  # CMake remembers where it found libraries
    flags = " ".join(sysroot_flags(tree))
    settings = [f"-DCMAKE_C_FLAGS={flags}", f"-DSVQ_SYSROOT={tree.root}", "-DCMAKE_BUILD_TYPE=Release"]
    with exclusive(NATIVE_BUILD / "lock"):
        run_tool(["cmake", "-S", REPOSITORY / "c_helpers", "-B", build, *settings])
        run_tool(["cmake", "--build", build, "--parallel", "2"])
        run_tool(["cmake", "--install", build, "--prefix", prefix])


def compile_program(tree: DebianTree, sources: list[Path], output: Path, *flags: str | Path) -> None:
    """Compiles one C program for the machine."""
    warnings = ["-std=gnu11", "-D_GNU_SOURCE=", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]
    run_tool(["gcc", *sysroot_flags(tree), *warnings, "-o", output, *sources, *flags])


def _stage_project(
    tree: DebianTree, stage: Path, boot: list[Path], payload: Mapping[str, Path], *, native: bool
) -> None:
    python = stage / "python"
    for name in PYTHON_PACKAGES:
        source = REPOSITORY / name
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "src", "tests", "module")
        shutil.copytree(source, python / name, ignore=ignored)
    if native:
        build_native(tree, python)
    compile_python(tree, stage, ["python"])
    shutil.copytree(initramfs.GUEST_FILES, stage / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    (stage / "boot").mkdir()
    for file in boot:
        shutil.copy(file, stage / "boot" / file.name)
    for name, file in payload.items():
        target = stage / "payload" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def build_images(
    cache: Path, work: Path, *, payload: Mapping[str, Path] | None = None, native: bool = True
) -> MachineImages:
    """Returns the machine's images: from the cache where they are there, the project's made anew in `work`.

    `payload` maps names below /opt/shadowvq/payload to files of this machine. Without `native` the project's C is
    not built: its Python is there, its libraries are not.
    """
    tree = fetch_debian_tree(cache)
    base = _build_base(cache, tree)
    start = _build_initramfs(cache, tree)
    stage = work / "project"
    shutil.rmtree(stage, ignore_errors=True)
    _stage_project(tree, stage, [base / "vmlinux", start], payload or {}, native=native)
    pack(tree, stage, work / "project.squashfs")
    shutil.rmtree(stage)
    return MachineImages(
        tree=tree,
        hypervisor=base / "xen",
        kernel=base / "vmlinux",
        initramfs=start,
        root=base / "root.squashfs",
        project=work / "project.squashfs",
    )
