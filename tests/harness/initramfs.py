# SPDX-License-Identifier: GPL-2.0-or-later
"""The initramfs that dom0 and all guests start from: busybox, modules and one init script."""

from pathlib import Path

from tests.harness.kernel import (
    DOM0_MODULES,
    GUEST_MODULES,
    OTHER_MODULES,
    ROOT_DISK_MODULES,
    dependency_table,
    module_closure,
)
from tests.harness.packages import DebianTree
from tests.harness.tools import words

GUEST_FILES = Path(__file__).parent / "guest"
BUSYBOX_COMMANDS = words(
    "awk base64 cat chmod cp cut date dd dmesg echo env false grep head hexdump kill ln ls md5sum mkdir "
    "mkfifo modprobe mount mv od ps reboot rm sed setsid sh sleep stat stty switch_root sync tail test "
    "timeout touch tr true umount uname wc"
)

DIRECTORY, FILE, LINK = 0o040755, 0o100755, 0o120777


class CpioArchive:
    """A cpio archive ("newc") in memory, all of it owned by root; parent folders are added as needed."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._folders: set[str] = set()
        self._count = 0

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        self._count += 1
        encoded = name.encode() + b"\0"
        fields = (self._count, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        for chunk in (header + encoded, data):
            self._chunks.append(chunk + bytes(-len(chunk) % 4))

    def folder(self, name: str) -> None:
        """Adds a folder and its parents, once."""
        parent, _, _ = name.rpartition("/")
        if parent:
            self.folder(parent)
        if name not in self._folders:
            self._folders.add(name)
            self._entry(name, DIRECTORY, b"")

    def file(self, name: str, data: bytes) -> None:
        """Adds a file, executable."""
        self.folder(name.rpartition("/")[0])
        self._entry(name, FILE, data)

    def link(self, name: str, target: str) -> None:
        """Adds a symbolic link."""
        self.folder(name.rpartition("/")[0])
        self._entry(name, LINK, target.encode())

    def to_bytes(self) -> bytes:
        """Returns the whole archive. It is left unpacked: QEMU reads it faster than the machine would unpack it."""
        self._entry("TRAILER!!!", 0, b"")
        return b"".join(self._chunks)


def build_initramfs(tree: DebianTree) -> bytes:
    """Returns the initramfs, as an archive that the kernel unpacks."""
    archive = CpioArchive()
    for folder in ("dev", "proc", "sys", "tmp", "lower", "rw", "sysroot"):
        archive.folder(folder)
    archive.file("bin/busybox", (tree.root / "bin" / "busybox").read_bytes())
    for command in BUSYBOX_COMMANDS:
        archive.link(f"bin/{command}", "busybox")
    archive.link("sbin/modprobe", "../bin/busybox")  # where the kernel itself looks for it
    closure = module_closure(tree, ROOT_DISK_MODULES + DOM0_MODULES + GUEST_MODULES + OTHER_MODULES)
    modules = f"lib/modules/{tree.kernel_release}"
    for module in closure:
        archive.file(f"{modules}/{module.relative_to(tree.modules)}", module.read_bytes())
    archive.file(f"{modules}/modules.dep", dependency_table(tree, closure).encode())
    archive.file("init", (GUEST_FILES / "init.sh").read_bytes())
    archive.file("agent.sh", (GUEST_FILES / "agent.sh").read_bytes())
    return archive.to_bytes()
