# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's images, with what the tests on real Xen bring along."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.bundle import BUILT, stage_module
from tests.harness import MachineImages, build_images
from tests.harness.cache import cache_folder
from tests.harness.images import compile_program
from tests.harness.kernel_module import build_module
from tests.harness.packages import REPOSITORY, DebianTree, fetch_debian_tree
from tests.harness.qemu import QEMU
from tests.harness.tools import find_tool

HERE = Path(__file__).parent
C_HELPERS = REPOSITORY / "c_helpers"


# Programs that ask the seam by itself: what each is compiled from, besides the seam.
SEAM_PROGRAMS = {
    "seam_check": ["seam_check.c", "seam_grants.c", "seam_narrow.c"],
    "seam_grantee": ["seam_grantee.c"],
    "seam_frames": ["seam_frames.c"],
}


def _nothing(_tree: DebianTree) -> Mapping[str, Path]:
    return {}


def _compile_with_seam(tree: DebianTree, program: Path) -> Path:
    seam = [C_HELPERS / "src" / room for room in ("seam", "sim", "sim/broker", "xen")]
    sources = [HERE / name for name in SEAM_PROGRAMS[program.name]]
    sources += [source for room in seam for source in sorted(room.glob("*.c"))]
    rooms = [C_HELPERS / "include", *seam, *(C_HELPERS / "src" / room for room in ("ring", "engine"))]
    includes = [f"-I{room}" for room in rooms]
    compile_program(tree, sources, program, *includes, "-pthread", "-ldl")
    return program


def build_machine_images(work: Path, *, extra: Callable[[DebianTree], Mapping[str, Path]] = _nothing) -> MachineImages:
    """
    Makes in `work` what is not in the cache. The payload lies below /opt/shadowvq/payload in each domain; `extra` makes
    more of it.
    """
    find_tool(QEMU)  # before minutes are spent on what would need it
    cache = cache_folder()
    tree = fetch_debian_tree(cache)
    stage_module(work / "module")
    shutil.copytree(HERE / "ring_reset", work / "ring_reset", ignore=shutil.ignore_patterns(*BUILT))
    payload = {
        **{name: _compile_with_seam(tree, work / name) for name in SEAM_PROGRAMS},
        "virtio_xenbus.ko": build_module(cache, tree, work / "module"),
        "svq_ring_reset.ko": build_module(cache, tree, work / "ring_reset"),
        **extra(tree),
        **{name: HERE / name for name in ("confined.py", "remote_server.py", "rule_observer.py", "xen_player.py")},
    }
    return build_images(cache, work / "images", payload=payload)
