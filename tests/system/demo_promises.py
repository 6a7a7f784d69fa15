# SPDX-License-Identifier: GPL-2.0-or-later
"""What the report of a demo says when every promise was kept."""

from __future__ import annotations

from typing import Any

GOOD: dict[str, Any] = {
    "hypervisor": "embedded",
    "image_sha256_match": True,
    "written_sha256_match": True,
    "restored_sha256_match": True,
    "fsck_clean": True,
    "pages_reachable_outside_requests": 0,
    "bytes_reachable_outside_buffers": 0,
    "pages_writable_beyond_requests": 0,
    "reachable_after_kept_mapping": 0,
    "reachable_after_mediator_killed": 0,
    "window_in_use_at_end": 0,
    "canaries_broken": 0,
}
