# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots real Xen in QEMU from the command line: `python -m tests.harness boot --run "xl info"`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.harness.cache import cache_folder
from tests.harness.domains import DomainSpec, Kind
from tests.harness.errors import HarnessError
from tests.harness.images import build_images
from tests.harness.machine import Machine, boot
from tests.harness.packages import REPOSITORY
from tests.harness.qemu import MachineSpec

LOGS = REPOSITORY / "build" / "xen-logs"


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")


def _run_in(machine: Machine, options: argparse.Namespace) -> int:
    for script in options.run:
        if options.guest is None:
            result = machine.start(script, deadline_s=options.deadline).wait()
        else:
            started = time.monotonic()
            with machine.domains.running(DomainSpec("guest", Kind(options.guest))) as guest:
                _note(f"guest takes commands: {time.monotonic() - started:.1f} s")
                result = guest.start(script, deadline_s=options.deadline).wait()
        sys.stdout.write(result.stdout)
        sys.stderr.write(result.stderr)
        if result.status != 0:
            return 1 if result.status is None else result.status
    return 0


def _boot(options: argparse.Namespace) -> int:
    cache = cache_folder(options.cache)
    with tempfile.TemporaryDirectory(prefix="svq-images-") as work:
        started = time.monotonic()
        images = build_images(cache, Path(work), native=options.native)
        _note(f"images: {time.monotonic() - started:.1f} s")
        spec = MachineSpec(memory_mib=options.memory, vcpus=options.vcpus, dom0_vcpus=options.dom0_vcpus)
        with boot(images, spec, options.logs, cache=cache) as machine:
            for milestone, seconds in machine.boot_s.items():
                _note(f"{milestone}: {seconds:.1f} s")
            return _run_in(machine, options)


def _images(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="svq-images-") as work:
        images = build_images(cache_folder(options.cache), Path(work), native=options.native)
    sys.stdout.write(f"Debian {images.tree.root}\nkernel {images.tree.kernel_release}\nroot {images.root}\n")
    return 0


def main() -> int:
    """Runs the command line; returns the exit status: that of the command in dom0, or 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness", description=__doc__)
    parser.add_argument(
        "--cache", type=Path, help="cache folder (default: $SHADOWVQ_XEN_CACHE or ~/.cache/shadowvq/xen)"
    )
    parser.add_argument("--logs", type=Path, default=LOGS / "boot", help="folder for the machine's logs (%(default)s)")
    parser.add_argument("--native", action=argparse.BooleanOptionalAction, default=True, help="build the project's C")
    commands = parser.add_subparsers(required=True)
    boot_parser = commands.add_parser("boot", help="boot the machine, run commands in it, and end it")
    boot_parser.add_argument(
        "--run", action="append", default=[], metavar="SCRIPT", help="shell script; may be repeated"
    )
    boot_parser.add_argument("--guest", choices=[kind.value for kind in Kind], help="run it in a guest, not in dom0")
    boot_parser.add_argument("--deadline", type=float, default=60.0, help="seconds for each script (%(default)s)")
    boot_parser.add_argument("--memory", type=int, default=MachineSpec.memory_mib, help="MiB (%(default)s)")
    boot_parser.add_argument("--vcpus", type=int, default=MachineSpec.vcpus, help="processors (%(default)s)")
    boot_parser.add_argument(
        "--dom0-vcpus", type=int, default=MachineSpec.dom0_vcpus, help="of these, dom0's (%(default)s)"
    )
    boot_parser.set_defaults(handler=_boot)
    commands.add_parser("images", help="make what the machine boots from").set_defaults(handler=_images)
    options = parser.parse_args()
    try:
        status: int = options.handler(options)
    except HarnessError as error:
        _note(f"{type(error).__name__}: {error}")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
