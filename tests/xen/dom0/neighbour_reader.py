# SPDX-License-Identifier: GPL-2.0-or-later
"""The neighbour's work, inside its guest: reads the start of its disk without end, and counts the rounds.

usage: neighbour_reader.py SHA256 PROCESSORS

One thread reads on each processor, and adds a byte to /run/rounds-PROCESSOR for each round. A read that fails does not
count; one that gives bytes of another checksum is kept in /run/differs.
"""

import contextlib
import hashlib
import mmap
import os
import sys
import threading
import time
from pathlib import Path

DISK = "/dev/vda"
CHUNK, CHUNKS = 65536, 8
PAUSE_S = 0.5  # there is one emulated processor for all


def read_disk() -> bytes:
    """The disk's first chunks, past the guest's own cache; OSError if a read fails."""
    disk = os.open(DISK, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, CHUNK * CHUNKS) as buffer:
            with memoryview(buffer) as whole:
                for begin in range(0, CHUNK * CHUNKS, CHUNK):
                    with whole[begin : begin + CHUNK] as chunk:
                        if os.preadv(disk, [chunk], begin) != CHUNK:
                            raise OSError("a short read")
            return buffer[:]
    finally:
        os.close(disk)


def work(processor: int, wanted: str) -> None:
    """Reads and compares until the guest ends."""
    os.sched_setaffinity(0, {processor})
    with Path(f"/run/rounds-{processor}").open("ab", buffering=0) as rounds:
        while True:
            with contextlib.suppress(OSError):
                found = read_disk()
                if hashlib.sha256(found).hexdigest() != wanted:
                    Path("/run/differs").write_bytes(found)
                rounds.write(b".")
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    for number in range(int(sys.argv[2])):
        threading.Thread(target=work, args=(number, sys.argv[1])).start()
