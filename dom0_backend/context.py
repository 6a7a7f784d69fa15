# SPDX-License-Identifier: GPL-2.0-or-later
"""What all devices of a backend share, and which of them has which image."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dom0_backend.blk import BlkDevice, Image
from dom0_backend.config import PAGE, BackendConfig
from dom0_backend.holders import holders
from xen_shadowvq.errors import ImageBusy
from xen_shadowvq.hypervisor import Hypervisor
from xen_shadowvq.log import get_logger
from xen_shadowvq.xenstore import XenStore
from xenstore_schema import nodes
from xenstore_schema.spec import Values

BUSY_PATIENCE_S, BUSY_POLL_S = 3.0, 0.05
"""For a user of the image that is about to leave: a device that closes, a process that the kernel is still ending."""


class ImageUser(Protocol):
    """A device, as those hear of it who want its image."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def uses_image(self) -> bool:
        """Whether it keeps its image; else it is closing it."""
        ...


@dataclass(frozen=True)
class BackendContext:
    """
    What all devices of a backend share. `alert` has the loop call `check_fault`, from any thread; `images` has those
    that are open, and whose they are.
    """

    store: XenStore
    hypervisor: Hypervisor
    domid: int
    alert: Callable[[], None]
    config: BackendConfig
    images: dict[Image, ImageUser] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)  # what was logged once for all devices

    def tell_grant_copy(self, device: BlkDevice) -> None:
        """Logs, once, what is copied in place of being mapped: the same for every device."""
        if self.told:
            return
        self.told.append("grant_copy")
        wanted, pages, found = self.config.grant_copy, device.stats()["copy_pages"], device.crossover()
        facts = {"grant_copy": wanted, "pages": pages, "bytes": pages * PAGE}
        if found.error:
            reason = f"buffers are mapped, whatever their size: nothing can be copied ({os.strerror(found.error)})"
            get_logger().warning("grant_copy_chosen", **facts, reason=reason)
        elif wanted == "auto":
            measured = {"map_ns": found.map_ns, "copy_ns": found.copy_ns, "copy_16_ns": found.copy_16_ns}
            get_logger().info("grant_copy_chosen", **facts, **measured)
        else:
            get_logger().info("grant_copy_chosen", **facts)

    def users(self, path: Path) -> tuple[list[str], bool]:
        """Who has an image, as far as is known here, and whether any of them is known to keep it."""
        own = [device for image, device in list(self.images.items()) if image.is_at(path)]
        others = holders(path)
        return [device.name for device in own] + others, bool(others) or any(device.uses_image for device in own)

    def open(self, user: ImageUser, found: Values, *, flush_failed: bool) -> Image:
        """
        Opens the image that a device's nodes name, and waits a little for a user that is about to leave. Runs on the
        device's thread. ImageError: why it cannot be had.
        """
        back = nodes.SvqBack
        path = Path(found[back.PARAMS])
        deadline = time.monotonic() + BUSY_PATIENCE_S
        while True:
            try:
                image = Image(
                    path,
                    read_only=found[back.MODE] == "r",
                    direct_io=found[back.DIRECT_IO],
                    shareable=found[back.SHAREABLE],
                    flush_failed=flush_failed,
                )
            except ImageBusy as error:
                users, stay = self.users(path)
                if stay or time.monotonic() >= deadline:
                    text = ": ".join([error.reason, "; ".join(users)] if users else [error.reason])
                    raise ImageBusy(error.path, text) from error
                time.sleep(BUSY_POLL_S)
                continue
            self.images[image] = user
            return image
