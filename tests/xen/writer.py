# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that writes to its disk, in the background, until that fails: what is to be going on while something dies."""

from tests.harness import Domain
from tests.harness.scripts import until

DISK_IS_THERE = until("[ -b /dev/vda ]")
WRITE = "dd if=/run/data of=/run/vda bs=64k oflag=direct"
WRITER = f"(while {WRITE}; do touch /run/once; done; touch /run/failed) >/dev/null 2>&1 &"
# Scripts for the guest: wait until all was written once, or until a write has failed.
WRITTEN_ONCE, WRITER_FAILED = until("[ -e /run/once ]"), until("[ -e /run/failed ]")


def write_without_end(guest: Domain) -> None:
    """Waits for the disk, and writes 2 MiB of /run/data to it, again and again until there is an error. The device
    node is a copy, which stays when the disk goes."""
    guest.run(
        f"{DISK_IS_THERE}; rm -f /run/vda /run/once /run/failed; cp -a /dev/vda /run/vda; "
        f"[ -e /run/data ] || dd if=/dev/urandom of=/run/data bs=64k count=32; {WRITER}",
        deadline_s=90,
    )
