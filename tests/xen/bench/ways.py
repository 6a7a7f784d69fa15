# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways from a guest to its disk that are compared, whether they exist yet, and what is said of each."""

from __future__ import annotations

from dataclasses import dataclass

NOT_BUILT = "not built"


@dataclass(frozen=True)
class Way:
    """
    One way. `state` is None for a way that is measured, else why it is not. `fixed`: the mediator maps the guest's
    memory once, in place of again for each pass.
    """

    name: str
    what: str
    state: str | None = None
    fixed: bool = False


PLAIN = "plain"
SWIOTLB = "swiotlb"
BLKBACK = "xen-blkback-persistent"
WAYS = (
    Way(PLAIN, "virtio as it is: the backend has all of the guest's memory mapped, and there is no mediator"),
    Way(SWIOTLB, "the guest copies everything into one area (`swiotlb=force`), which the backend has mapped"),
    Way(BLKBACK, "Xen's own blkfront and blkback: the guest copies into pages that stay granted"),
    Way("xen-blkback", "the same without persistent grants: the backend maps and unmaps the pages of each request"),
    Way(
        "exact-strict",
        "ours: whole pages are granted, the rest is copied; grants end before the driver sees the answer",
    ),
    Way(
        "page-strict", "the mail's: every page that a buffer touches is granted, and the grant ended, for each request"
    ),
    Way("copy", "ours: the mediator copies everything"),
    Way("exact-strict-fixed", "as exact-strict, with `memory: fixed`: for guests that never balloon", fixed=True),
    Way("copy-fixed", "as copy, with `memory: fixed`", fixed=True),
    Way("exact-lazy", "as exact-strict, but grants end in batches, later", NOT_BUILT),
    Way("exact-persistent", "as exact-strict, but grants stay", NOT_BUILT),
)
PLACEMENTS = {
    "exact-strict": "exact",
    "page-strict": "page",
    "copy": "copy",
    "exact-strict-fixed": "exact",
    "copy-fixed": "copy",
}
# The mail's three ways to pass an indirect table. Only the second exists, and it is not measured by size of table yet.
INDIRECT_WAYS = ("as-it-is", "shadow-table", "read-only-pages")


def named(name: str) -> Way:
    """A way by its name."""
    return next(way for way in WAYS if way.name == name)
