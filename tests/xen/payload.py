# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's images, with what the tests on real Xen bring along."""

import shutil
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


def _compile_seam_check(tree: DebianTree, program: Path) -> Path:
    sources = [HERE / "seam_check.c", *sorted((C_HELPERS / "src").glob("hv*.c"))]
    sources += sorted((C_HELPERS / "src").glob("xen_*.c")) + sorted((C_HELPERS / "src").glob("sim_*.c"))
    includes = [f"-I{C_HELPERS / 'include'}", f"-I{C_HELPERS / 'src'}"]
    compile_program(tree, sources, program, *includes, "-pthread", "-ldl")
    return program


def build_machine_images(work: Path) -> MachineImages:
    """Makes in `work` what is not in the cache. The payload lies below /opt/shadowvq/payload in each domain."""
    find_tool(QEMU)  # before minutes are spent on what would need it
    cache = cache_folder()
    tree = fetch_debian_tree(cache)
    stage_module(work / "module")
    shutil.copytree(HERE / "ring_reset", work / "ring_reset", ignore=shutil.ignore_patterns(*BUILT))
    payload = {
        "seam_check": _compile_seam_check(tree, work / "seam_check"),
        "virtio_xenbus.ko": build_module(cache, tree, work / "module"),
        "svq_ring_reset.ko": build_module(cache, tree, work / "ring_reset"),
        **{name: HERE / name for name in ("remote_server.py", "xen_player.py")},
    }
    return build_images(cache, work / "images", payload=payload)
