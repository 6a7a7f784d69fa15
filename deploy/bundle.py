# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the image that brings ShadowVQ to a Xen host: `python -m deploy.bundle build/shadowvq.squashfs`.

It is mounted at /opt/shadowvq, read-only, in each domain that runs a part: bin/, python/ (the project and all that
it requires, for Debian 12's Python), deploy/, docs/, and module/ with all that the kernel module is built from.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHON_PACKAGES = ("xen_shadowvq", "xenstore_schema", "domU_frontend", "dom0_backend")
PYTHON_VERSION = "3.11"
PYTHON_TAGS = [f"manylinux_2_{minor}_x86_64" for minor in (36, 34, 28, 27, 26, 24, 17)] + ["manylinux2014_x86_64"]
BUILT = ("*.o", "*.ko", "*.mod*", ".*", "Module.symvers", "__pycache__")


def requirements() -> list[str]:
    """What the project needs at run time, as its pyproject.toml says."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [str(requirement) for requirement in project["dependencies"]]


def install_requirements(folder: Path) -> None:
    """Puts the project's run-time requirements, built for Debian 12's Python, into a folder."""
    platforms = [argument for tag in PYTHON_TAGS for argument in ("--platform", tag)]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--only-binary=:all:"]
    target = ["--python-version", PYTHON_VERSION, "--implementation", "cp", *platforms, "--target", str(folder)]
    subprocess.run([*pip, *target, *requirements()], check=True)


def build_native(prefix: Path, build: Path, *settings: str) -> None:
    """Builds the project's C (incrementally, in `build`) with CMake `settings`, and installs it below `prefix`."""
    source = REPOSITORY / "c_helpers"
    configure = ["cmake", "-S", str(source), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release", *settings]
    commands = (configure, ["cmake", "--build", str(build), "--parallel", "2"])
    for command in (*commands, ["cmake", "--install", str(build), "--prefix", str(prefix)]):
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stage_module(folder: Path) -> None:
    """Puts everything that the guest's kernel module is built from into a new folder."""
    shutil.copytree(REPOSITORY / "domU_frontend" / "module", folder, ignore=shutil.ignore_patterns("tests", *BUILT))
    shutil.copy(REPOSITORY / "xenstore_schema" / "include" / "svq_nodes.h", folder)


def stage(root: Path, wheels: Path, native: Callable[[Path], None]) -> None:
    """Lays out the image below `root`. `wheels` is what install_requirements made; `native` installs the libraries."""
    python = root / "python"
    shutil.copytree(wheels, python)
    for name in PYTHON_PACKAGES:
        ignored = shutil.ignore_patterns("*.so", "src", "tests", "module", *BUILT)
        shutil.copytree(REPOSITORY / name, python / name, ignore=ignored)
    native(python)
    for name in ("deploy", "docs"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns(*BUILT))
    stage_module(root / "module")
    (root / "bin").mkdir()
    shutil.copy(REPOSITORY / "deploy" / "shadowvq", root / "bin" / "shadowvq")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.bundle", description=__doc__)
    parser.add_argument("output", type=Path, help="the image to make")
    parser.add_argument("--cmake", action="append", default=[], metavar="SETTING", help="for CMake; may be repeated")
    options = parser.parse_args()
    output = options.output
    mksquashfs = shutil.which("mksquashfs")
    if mksquashfs is None:
        raise SystemExit("mksquashfs is not installed: install the Debian package squashfs-tools")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="svq-bundle-") as work:
        wheels, root = Path(work) / "wheels", Path(work) / "root"
        install_requirements(wheels)
        stage(root, wheels, lambda prefix: build_native(prefix, REPOSITORY / "build" / "bundle", *options.cmake))
        output.unlink(missing_ok=True)
        subprocess.run([mksquashfs, root, output, "-all-root", "-no-progress", "-quiet"], check=True)
    sys.stdout.write(f"{output}: {output.stat().st_size / 2**20:.1f} MiB, to be mounted at /opt/shadowvq\n")


if __name__ == "__main__":
    main()
