# SPDX-License-Identifier: GPL-2.0-or-later
"""One set of domains for all tests of this folder; the last test has destroyed them."""

from collections.abc import Iterator

import pytest

from tests.harness import Machine
from tests.xen import topology
from tests.xen.topology import Topology


@pytest.fixture(scope="package")
def separate(xen: Machine) -> Iterator[Topology]:
    """The mediator in a PV domain of its own, the backend in a driver domain, one guest."""
    with topology.separate(xen) as running:
        yield running
