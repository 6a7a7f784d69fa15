# SPDX-License-Identifier: GPL-2.0-or-later
"""Judging what a probe found: which bytes of the frontend were reachable, and were they all described?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PAGE = 4096
TAG_BYTES = 16


@dataclass(frozen=True)
class Verdict:
    """One probe, judged against the buffers of the requests that were live meanwhile."""

    pages_probed: int
    pages_reachable: int
    bytes_outside: int
    writable_outside: int

    @property
    def clean(self) -> bool:
        """Whether only the described bytes could be reached, with no more than the described access."""
        return self.bytes_outside == 0 and self.writable_outside == 0


def judge(probe: dict[str, Any], buffers: list[list[int]]) -> Verdict:
    """
    Args:
        probe: a `Reach` as JSON.
        buffers: [guest physical address, bytes, device may write] of each live request's data.
    """
    described = _Ranges([(gpa, gpa + length) for gpa, length, _ in buffers])
    device_may_write = _Ranges([(gpa, gpa + length) for gpa, length, writable in buffers if writable])
    seen = {(gfn * PAGE + offset) for gfn, offset in probe["tags"]}
    outside = sum(TAG_BYTES for gpa in seen if not described.covers(gpa, gpa + TAG_BYTES))
    cleared = sum(
        length // PAGE for _, length, may_write in buffers if may_write
    )  # whole pages are all that is granted
    outside += PAGE * (probe["frames_allowed"] + probe["untagged_pages"] + max(0, probe["cleared_pages"] - cleared))
    writable = [gfn * PAGE for gfn in probe["writable_frames"]]
    return Verdict(
        pages_probed=probe["frames_tried"] + probe["grefs_tried"],
        pages_reachable=probe["frames_allowed"]
        + probe["frontend_grefs_mapped"]
        + len({gpa // PAGE for gpa in seen} - set(probe["frontend_frames"])),
        bytes_outside=outside,
        writable_outside=sum(not device_may_write.covers(gpa, gpa + PAGE) for gpa in writable),
    )


class _Ranges:
    """Half-open ranges, merged."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self._merged: list[tuple[int, int]] = []
        for start, end in sorted(ranges):
            if self._merged and start <= self._merged[-1][1]:
                self._merged[-1] = (self._merged[-1][0], max(end, self._merged[-1][1]))
            else:
                self._merged.append((start, end))

    def covers(self, start: int, end: int) -> bool:
        return any(low <= start and end <= high for low, high in self._merged)
