# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is not to be trusted, played inside a domain: a frontend with a user-space driver, and an attacking backend."""

import time
from pathlib import Path
from typing import Any

from domU_frontend.hostile import DESC_F_WRITE, PAGE_BYTES, RingLayout, RingWriter
from tests_hostile import CASES, Villain
from xen_shadowvq.demo.frontend_process import FrontendProcess
from xen_shadowvq.demo.probe import Prober
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.mediator import own_domid
from xen_shadowvq.xenstore import XenStore

CONNECT_S = 60.0


class Player(FrontendProcess):
    """The demo's frontend, on real Xen, and the attacks of a hostile one."""

    def __init__(self, device: int, memory_mib: int) -> None:
        # Locked pages must stay where they are: their frame numbers are in the rings.
        Path("/proc/sys/vm/compact_unevictable_allowed").write_text("0")
        super().__init__(None, device, memory_mib, seed=1)

    def attack(self, case: str) -> dict[str, Any]:
        """Does one of the embedded tests' attacks; returns once the mediator has closed the device."""
        attack, words = CASES[case]
        return self._attack(lambda villain: attack(villain), words)
