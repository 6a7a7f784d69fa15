# SPDX-License-Identifier: GPL-2.0-or-later
"""All that the machine boots from: slow parts from the cache, the project's own code built for each session."""

import gzip
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy import bundle
from tests.harness import initramfs, kernel, rootfs
from tests.harness.cache import build_once, content_key, exclusive
from tests.harness.packages import REPOSITORY, DebianTree, fetch_debian_tree
from tests.harness.rootfs import compile_python, pack
from tests.harness.tools import find_tool, run_tool

HARNESS = Path(__file__).parent
NATIVE_BUILD = REPOSITORY / "build" / "xen-native"


@dataclass(frozen=True)
class MachineImages:
    """Files that the machine boots from.

    `project` is mounted at /opt/shadowvq, in dom0 and in guests with a full userland: it is what `make bundle` makes
    for operators, and with it boot/ has what guests boot from, harness/ the agent, payload/ what the caller added.
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

    return build_once(cache, "base", content_key(*recipes), make)


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
    find_tool("cmake")
    with exclusive(NATIVE_BUILD / "lock"):
        bundle.build_native(
            prefix, build, f"-DCMAKE_C_FLAGS={' '.join(sysroot_flags(tree))}", f"-DSVQ_SYSROOT={tree.root}"
        )


def compile_program(tree: DebianTree, sources: list[Path], output: Path, *flags: str | Path) -> None:
    """Compiles one C program for the machine."""
    warnings = ["-std=gnu11", "-D_GNU_SOURCE=", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]
    run_tool(["gcc", *sysroot_flags(tree), *warnings, "-o", output, *sources, *flags])


def _fetch_wheels(cache: Path) -> Path:
    key = content_key(Path(bundle.__file__), *bundle.requirements())
    return build_once(cache, "wheels", key, bundle.install_requirements)


def _stage_project(
    tree: DebianTree, wheels: Path, stage: Path, boot: list[Path], payload: Mapping[str, Path], *, native: bool
) -> None:
    """The operators' own image, compiled Python, and what the harness adds."""
    bundle.stage(stage, wheels, lambda python: build_native(tree, python) if native else None)
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
    _stage_project(tree, _fetch_wheels(cache), stage, [base / "vmlinux", start], payload or {}, native=native)
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
