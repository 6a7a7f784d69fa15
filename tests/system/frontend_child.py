# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: python -m tests.system.frontend_child DIRECTORY DOMID DEVICE: connects and does I/O until stdin or it
ends."""

from __future__ import annotations

import sys
from pathlib import Path

from domU_frontend.frontend import Frontend
from tests.system.disk_io import IoLoop
from xen_shadowvq import log


def main() -> None:
    """Logs `frontend_connected`, and `io_going` when the first round came out right."""
    log.configure("info", "json", sys.stderr)
    logger = log.get_logger()
    directory, domid, device = sys.argv[1:]
    with Frontend(int(device), sim=(Path(directory), int(domid)), pages=2048) as frontend:
        frontend.connect()
        logger.info("frontend_connected")
        loop = IoLoop(frontend)
        while not loop.rounds and loop.failure is None:
            frontend.store.next_event(10)
        logger.info("io_going", failure=loop.failure)
        sys.stdin.read()
        loop.stop()


if __name__ == "__main__":
    main()
