# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages that the machine is made from: downloaded and unpacked, never installed."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.harness.cache import build_once, content_key
from tests.harness.tools import find_tool, run_tool, words

REPOSITORY = Path(__file__).resolve().parents[2]
DOWNLOADER = REPOSITORY / "c_helpers" / "debian_packages.sh"
XEN_VERSION = "4.17"

HYPERVISOR_PACKAGES = [f"xen-hypervisor-{XEN_VERSION}-amd64", "linux-image-amd64"]
USERLAND_PACKAGES = words(
    "base-files base-passwd bash busybox-static coreutils dash e2fsprogs findutils fio gawk grep gzip hostname "
    "libc-bin procps sed tar mount python3 systemd systemd-sysv util-linux xenstore-utils xen-utils-common "
    f"libxendevicemodel1 libxenevtchn1 libxenforeignmemory1 libxengnttab1 xen-utils-{XEN_VERSION}"
)
HEADERS_PATTERN = r"^linux-headers-[0-9].*[0-9](\+deb12)?-amd64$"
BUILD_PACKAGES = words("libc6-dev liburing-dev libxen-dev linux-libc-dev squashfs-tools")


@dataclass(frozen=True)
class DebianTree:
    """Unpacked packages. `root` looks like a Debian system's root folder, of which nothing was configured."""

    root: Path

    @property
    def kernel_release(self) -> str:
        """The kernel's release, as `uname -r` says it, e.g. 6.1.0-37-amd64."""
        return max(folder.name for folder in (self.root / "lib" / "modules").iterdir())

    @property
    def kernel(self) -> Path:
        """The kernel, as a bzImage."""
        return self.root / "boot" / f"vmlinuz-{self.kernel_release}"

    @property
    def hypervisor(self) -> Path:
        """Xen, gzipped."""
        return self.root / "boot" / f"xen-{XEN_VERSION}-amd64.gz"

    @property
    def modules(self) -> Path:
        """The folder of the kernel's modules."""
        return self.root / "lib" / "modules" / self.kernel_release

    def run(self, program: str, *arguments: str | Path) -> str:
        """Runs one of the tree's own programs, with the tree's own libraries, and returns its output."""
        libraries = ":".join(str(self.root / folder) for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"))
        loader = self.root / "lib64" / "ld-linux-x86-64.so.2"
        env = {"PYTHONHOME": str(self.root / "usr"), "LC_ALL": "C.UTF-8"}
        return run_tool([loader, "--library-path", libraries, self.root / program, *arguments], env=env)


def newest_kernel_release() -> str:
    """The release of the newest kernel whose headers the package source has, e.g. 6.12.117+deb12-amd64."""
    with tempfile.TemporaryDirectory() as scratch:
        names = run_tool([DOWNLOADER, "--list", scratch, HEADERS_PATTERN]).split()
    return max((name.removeprefix("linux-headers-") for name in names), key=_numbers)


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release.partition("+")[0])]


def fetch_kernel_headers(cache: Path, release: str) -> Path:
    """Returns the build folder (KDIR) of a kernel's headers: unpacked, and made to find each other."""
    common = release.removesuffix("-amd64") + "-common"
    # Debian calls the programs that build modules after the series (6.1), since 6.12 after the release.
    kbuild = ".".join(release.split(".")[:2]) if release.startswith("6.1.") else release.removesuffix("-amd64")
    names = [f"linux-headers-{release}", f"linux-headers-{common}", f"linux-kbuild-{kbuild}"]

    def download(folder: Path) -> None:
        run_tool([DOWNLOADER, folder, *names])
        # The packages are written for /usr/src: the makefile names the common headers by that path.
        makefile = folder / "usr" / "src" / f"linux-headers-{release}" / "Makefile"
        here = "$(dir $(lastword $(MAKEFILE_LIST)))"
        makefile.write_text(
            makefile.read_text().replace(f"/usr/src/linux-headers-{common}", f"{here}../linux-headers-{common}")
        )

    folder = build_once(cache, f"headers-{release}", content_key(DOWNLOADER, *names), download)
    return folder / "usr" / "src" / f"linux-headers-{release}"


def fetch_dkms(cache: Path) -> Path:
    """Returns the program `dkms`, unpacked: a shell script that needs nothing else to build."""

    def download(folder: Path) -> None:
        run_tool([DOWNLOADER, folder, "dkms"])

    return build_once(cache, "dkms", content_key(DOWNLOADER, "dkms"), download) / "usr" / "sbin" / "dkms"


def fetch_debian_tree(cache: Path) -> DebianTree:
    """Returns the unpacked packages, downloaded on first use (about 150 MB). Needs a Debian 12 package source."""
    names = sorted([*HYPERVISOR_PACKAGES, *USERLAND_PACKAGES, *BUILD_PACKAGES])

    def download(folder: Path) -> None:
        find_tool("apt-get")
        find_tool("dpkg")
        run_tool([DOWNLOADER, "--closure", folder, *names])

    return DebianTree(build_once(cache, "debian", content_key(DOWNLOADER, *names), download))
