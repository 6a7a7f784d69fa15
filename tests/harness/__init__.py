# SPDX-License-Identifier: GPL-2.0-or-later
"""Real Xen for the tests: one QEMU machine with Xen, a Debian dom0 and guests, without installing a hypervisor."""

from tests.harness.domains import Domain, Domains, DomainSpec
from tests.harness.errors import HarnessError
from tests.harness.images import MachineImages, build_images
from tests.harness.machine import Machine, boot
from tests.harness.qemu import MachineSpec

__all__ = [
    "Domain",
    "DomainSpec",
    "Domains",
    "HarnessError",
    "Machine",
    "MachineImages",
    "MachineSpec",
    "boot",
    "build_images",
]
