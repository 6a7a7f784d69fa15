# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process can reach that is confined as a service is; prints it as JSON.

usage: confined.py PID_OF_XENSTORED PID_OF_ANOTHER_SERVICE
"""

import contextlib
import json
import os
import socket
import sys
from pathlib import Path

SOCKETS = ("/run/systemd/private", "/run/dbus/system_bus_socket", "/run/systemd/notify", "/run/xenstored/socket")
FOLDERS = ("/etc", "/opt", "/run", "/usr", "/var/lib", "/var/lib/shadowvq", "/run/shadowvq")


def opens(path: str | Path) -> bool:
    """Whether it can be opened for reading and writing."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def connects(path: str) -> bool:
    """Whether somebody takes our connection there."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as sock, contextlib.suppress(OSError):
            sock.connect(path)
            return True
    return False


def writes(folder: str) -> bool:
    """Whether a file can be made there."""
    file = Path(folder) / ".confined"
    try:
        file.touch()
    except OSError:
        return False
    file.unlink()
    return True


def signals(pid: int) -> bool:
    """Whether it may send that process a signal. None is sent."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def main() -> None:
    """Tries everything."""
    daemon, service = map(int, sys.argv[1:])
    found = {
        "devices": sorted(node.name for node in Path("/dev/xen").iterdir() if opens(node)),
        "hypercalls by other ways": [path for path in ("/proc/xen/privcmd", "/dev/mem", "/dev/kmem") if opens(path)],
        "sockets": [path for path in SOCKETS if connects(path)],
        "writable": [folder for folder in FOLDERS if writes(folder)],
        "signals": [pid for pid in (daemon, service) if signals(pid)],
        "memory of": [pid for pid in (daemon, service) if opens(f"/proc/{pid}/mem")],
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
