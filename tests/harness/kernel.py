# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel and its modules, as the machine wants them."""

import lzma
import struct
from pathlib import Path

from tests.harness.errors import BuildFailed
from tests.harness.packages import DebianTree

SECTOR = 512
ELF_MAGIC = b"\x7fELF"
# Offsets in a bzImage's header (the kernel's Documentation/x86/boot.rst).
SETUP_SECTORS_OFFSET = 0x1F1
PAYLOAD_OFFSET = 0x248

# For every kernel of the machine. Each saves seconds of emulation at every boot: the search for pages both writable and
# executable, which comes with rodata, and the mitigations of a speculation that does not happen.
KERNEL_ARGUMENTS = ("rodata=off", "mitigations=off", "audit=0")

# What each role loads, in this order; dependencies are found in the modules themselves.
ROOT_DISK_MODULES = ("squashfs", "overlay")
DOM0_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "xen-privcmd",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xenfs",
    "xen-blkback",
)
GUEST_MODULES = ("xen-blkfront", "xen-privcmd", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xenfs")
# Loaded by tests: a device's own driver in a guest, a null device as a disk, a loop device as a backend's file, file
# systems (ext4 asks the kernel's crypto layer for crc32c by name, so that its module does not list it as a dependency).
OTHER_MODULES = ("loop", "null_blk", "virtio_blk", "virtio_net", "crc32c_generic", "ext4", "vfat")


def unpack_kernel(image: Path) -> bytes:
    """Returns the ELF kernel inside a bzImage.

    Unpacked once here, because each boot would otherwise unpack it in emulation, which takes longer than the boot.
    """
    data = image.read_bytes()
    sectors = data[SETUP_SECTORS_OFFSET] or 4
    offset, length = struct.unpack_from("<II", data, PAYLOAD_OFFSET)
    payload = data[(sectors + 1) * SECTOR + offset :][:length]
    try:
        kernel = lzma.LZMADecompressor().decompress(payload)
    except lzma.LZMAError as error:
        raise BuildFailed(f"{image}: its kernel is not packed with xz: {error}") from error
    if not kernel.startswith(ELF_MAGIC):
        raise BuildFailed(f"{image}: no ELF kernel inside")
    return kernel


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _dependencies(module: Path) -> list[str]:
    """The modules that a module names in its own information section."""
    for field in module.read_bytes().split(b"\0"):
        if field.startswith(b"depends="):
            return [name for name in field.removeprefix(b"depends=").decode().split(",") if name]
    return []


def module_closure(tree: DebianTree, names: tuple[str, ...]) -> dict[Path, list[Path]]:
    """Returns the modules `names` and all that they need: each one's file, and the files that must be there before it.

    These are listed as in modules.dep: the last is to be loaded first. Unknown names raise BuildFailed.
    """
    files = {_plain(file.stem): file for file in tree.modules.rglob("*.ko")}

    def visit(name: str, loaded: list[Path]) -> list[Path]:
        file = files.get(_plain(name))
        if file is None:
            raise BuildFailed(f"the kernel {tree.kernel_release} has no module {name}")
        if file not in loaded:
            for dependency in _dependencies(file):
                visit(dependency, loaded)
            loaded.append(file)
        return loaded

    wanted = {module for name in names for module in visit(name, [])}
    return {module: visit(module.stem, [])[-2::-1] for module in sorted(wanted)}


def dependency_table(tree: DebianTree, closure: dict[Path, list[Path]]) -> str:
    """Returns the text of modules.dep, which busybox's modprobe reads."""
    return "".join(
        f"{module.relative_to(tree.modules)}:{''.join(f' {path.relative_to(tree.modules)}' for path in needed)}\n"
        for module, needed in closure.items()
    )
