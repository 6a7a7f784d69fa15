# SPDX-License-Identifier: GPL-2.0-or-later
"""The root file system of dom0 and of guests with a full userland: a small, unconfigured Debian."""

import os
import shutil
from pathlib import Path

from tests.harness.packages import DebianTree
from tests.harness.tools import words

PYTHON_VERSION = "3.11"
SITE_PACKAGES = "usr/lib/python3/dist-packages"

NOT_NEEDED = words(
    "boot lib/modules lib/udev/hwdb.d usr/include usr/lib/gcc usr/share/bash-completion usr/share/doc "
    "usr/share/i18n usr/share/info usr/share/lintian usr/share/locale usr/share/man usr/share/perl "
    "usr/lib/x86_64-linux-gnu/perl etc/init.d etc/rc0.d etc/rc1.d etc/rc2.d etc/rc3.d etc/rc4.d etc/rc5.d "
    "etc/rc6.d etc/rcS.d packages.txt"
)
FOLDERS = words(
    "proc sys dev run tmp mnt root opt/shadowvq etc/xen etc/systemd/system etc/systemd/system-generators "
    "var/lib/xen var/log/xen/console var/log/journal var/tmp usr/local/bin"
)
LINKS = {
    "var/run": "/run",
    "var/lock": "/run/lock",
    "bin/sh": "dash",
    "usr/bin/awk": "gawk",
    "usr/bin/logger": "/bin/busybox",  # xl's disk scripts want one
    "sbin/modprobe": "/bin/busybox",  # kmod's wants an index that the packages do not bring; busybox's does not
    "etc/systemd/system/default.target": "/etc/systemd/system/harness.target",
}
# Each would only wait, or look for hardware, in a machine that has none.
MASKED_UNITS = words(
    "dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount "
    "sys-kernel-config.mount systemd-ask-password-wall.path systemd-ask-password-console.path "
    "apt-daily-upgrade.timer apt-daily.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer "
    "getty@tty1.service serial-getty@hvc0.service kmod-static-nodes.service modprobe@.service "
    "sys-fs-fuse-connections.mount systemd-binfmt.service systemd-firstboot.service systemd-hwdb-update.service "
    "systemd-journal-catalog-update.service systemd-machine-id-commit.service "
    "systemd-modules-load.service systemd-pcrphase-sysinit.service systemd-pcrphase.service "
    "systemd-pstore.service systemd-random-seed.service systemd-remount-fs.service "
    "systemd-sysusers.service systemd-timesyncd.service systemd-tmpfiles-clean.timer "
    "systemd-tmpfiles-setup-dev.service systemd-udev-settle.service systemd-udev-trigger.service "
    "systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket "
    "systemd-update-done.service systemd-update-utmp.service"
)
MASKED_GENERATORS = words(
    "cryptsetup debug fstab getty gpt-auto hibernate-resume integritysetup rc-local run system-update sysv veritysetup"
)
GROUPS = "systemd-journal:x:101:\nmessagebus:x:102:\nkvm:x:103:\nrender:x:104:\ninput:x:105:\nsgx:x:106:\n"

UNITS = {
    "harness.target": "[Unit]\nDescription=Everything that the tests need\nRequires=basic.target\n"
    "Wants=harness-xen.service harness-agent.service\nAfter=basic.target\nAllowIsolate=yes\n",
    "harness-xen.service": "[Unit]\nDescription=Xen's daemons\nDefaultDependencies=no\n"
    "After=local-fs.target systemd-tmpfiles-setup.service\n"
    "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh /opt/shadowvq/harness/start-xen.sh\n",
    "harness-agent.service": "[Unit]\nDescription=Command agent of the tests\nDefaultDependencies=no\n"
    "Requires=harness-xen.service\nAfter=harness-xen.service\n"
    "[Service]\nExecStart=/usr/bin/python3 /opt/shadowvq/harness/agent.py /dev/vport0p1\n"
    # A command of a test is not to die with the agent's unit, nor to be counted as part of it.
    "KillMode=process\nOOMScoreAdjust=-900\n",
    "harness-guest.target": "[Unit]\nDescription=A guest that the tests command\nRequires=basic.target\n"
    "Wants=harness-guest-agent.service\nAfter=basic.target\nAllowIsolate=yes\n",
    "harness-guest-agent.service": "[Unit]\nDescription=Command agent of the tests\n"
    "[Service]\nExecStartPre=-/bin/mount -t xenfs xenfs /proc/xen\nExecStartPre=/bin/dmesg -n 1\n"
    "ExecStart=/usr/bin/python3 /opt/shadowvq/harness/agent.py /dev/hvc0\nKillMode=process\nOOMScoreAdjust=-900\n",
}
TEXTS = {
    "etc/hostname": "shadowvq\n",
    "etc/hosts": "127.0.0.1 localhost shadowvq\n",
    "etc/fstab": "",
    "etc/machine-id": "5ad0175ad0175ad0175ad0175ad01750\n",  # fixed: the journal's folder has the same name each time
    "etc/xen/xl.conf": 'autoballoon="off"\n',
    "etc/systemd/journald.conf": "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n",
    "etc/systemd/system.conf": "[Manager]\nDefaultEnvironment=LANG=C.UTF-8 HOME=/root "
    "PATH=/usr/local/bin:/usr/lib/xen-4.17/bin:/usr/sbin:/usr/bin:/sbin:/bin "
    "LD_LIBRARY_PATH=/usr/lib/xen-4.17/lib/x86_64-linux-gnu\n",
    f"{SITE_PACKAGES}/shadowvq.pth": "/opt/shadowvq/python\n",
    **{f"etc/systemd/system/{name}": text for name, text in UNITS.items()},
}


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a hard link into the package tree
    path.write_text(text)


def _link_tree(tree: DebianTree, stage: Path) -> None:
    """Fills `stage` with hard links to the tree's files, without what is not needed."""
    excluded = {tree.root / name for name in NOT_NEEDED}

    def unwanted(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if Path(folder) / name in excluded or name.endswith(".a")}

    def link(source: str, target: str) -> str:
        os.link(source, target, follow_symlinks=False)
        return target

    shutil.copytree(tree.root, stage, symlinks=True, ignore=unwanted, copy_function=link)


def _configure(stage: Path) -> None:
    """Does what the packages' own installation scripts would have done, as far as the machine needs it."""
    for name in FOLDERS:
        (stage / name).mkdir(parents=True, exist_ok=True)
    links = LINKS | {f"etc/systemd/system/{unit}": "/dev/null" for unit in MASKED_UNITS}
    links |= {f"etc/systemd/system-generators/systemd-{name}-generator": "/dev/null" for name in MASKED_GENERATORS}
    for name, target in links.items():
        path = stage / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    for name, text in TEXTS.items():
        _replace(stage / name, text)
    base = stage / "usr" / "share" / "base-passwd"
    _replace(stage / "etc" / "passwd", (base / "passwd.master").read_text().replace("root:*:", "root::"))
    _replace(stage / "etc" / "group", (base / "group.master").read_text() + GROUPS)


def compile_python(tree: DebianTree, root: Path, folders: list[str]) -> None:
    """Compiles Python sources below `root` in place: in the emulated machine it would take minutes, at every boot."""
    module = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    paths = ["-s", str(root), "-p", "/", *(str(root / folder) for folder in folders)]
    tree.run(f"usr/bin/python{PYTHON_VERSION}", *module, *paths)


def pack(tree: DebianTree, folder: Path, image: Path) -> None:
    """Packs a folder as a squashfs that root owns; not compressed, since unpacking costs more than reading."""
    image.unlink(missing_ok=True)
    tree.run(
        "usr/bin/mksquashfs",
        folder,
        image,
        "-all-root",
        "-noI",
        "-noD",
        "-noF",
        "-noX",
        "-no-progress",
        "-quiet",
    )


def build_rootfs(tree: DebianTree, stage: Path, image: Path) -> None:
    """Makes the root file system: its folder at `stage`, which must not exist, and its image."""
    _link_tree(tree, stage)
    _configure(stage)
    compile_python(tree, stage, [f"usr/lib/python{PYTHON_VERSION}", "usr/lib/python3"])
    pack(tree, stage, image)
