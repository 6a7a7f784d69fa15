# SPDX-License-Identifier: GPL-2.0-or-later
"""What the mediator says about held pages, for tests in which a backend keeps some."""

from __future__ import annotations

import pytest

from domU_frontend.frontend import Frontend
from xen_shadowvq.errors import ConfigError
from xenstore_schema import nodes

from .world import FRONTEND, MEDIATOR, World

PAGES = 16  # of a request
KEPT = 0, PAGES - 1  # which of them the backend keeps
SHORT_S = 0.3


def held(world: World, device: int) -> int:
    """The mediator's `held-pages`."""
    path = nodes.virtio_back_path(mediator=MEDIATOR, frontend=FRONTEND, device=device)
    return nodes.VirtioBack.HELD_PAGES.read(world.store.read, path) or 0


def heads(world: World, device: int, queue: int = 0) -> bytes | None:
    """The mediator's `queue-{n}/held`."""
    path = nodes.virtio_back_path(mediator=MEDIATOR, frontend=FRONTEND, device=device)
    return nodes.VirtioBack.QUEUE_HELD.read(world.store.read, path, queue)


def is_not_closed(frontend: Frontend) -> None:
    """The frontend hears nothing that would let it use its buffers again."""
    with pytest.raises(ConfigError, match="was not closed within"):
        frontend.wait_closed(SHORT_S)
    assert not frontend.has_all_back
