# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's mediator: the service as an operator starts it, except that it ends when the demo does."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_the_demo() -> None:
    """The demo holds the other end of standard input, which the kernel closes even if the demo is killed."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """usage: python -m xen_shadowvq.demo.mediator_process OPTION..., which are those of `shadowvq mediator`"""
    threading.Thread(target=_end_with_the_demo, daemon=True).start()
    sys.argv = ["shadowvq", "mediator", *sys.argv[1:]]
    runpy.run_module("xen_shadowvq", run_name="__main__")


if __name__ == "__main__":
    main()
