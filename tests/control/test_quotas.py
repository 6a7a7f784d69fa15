# SPDX-License-Identifier: GPL-2.0-or-later
"""What the operator is told when XenStore refuses a write for want of room."""

from __future__ import annotations

import errno

import pytest

from xen_shadowvq.errors import XenStoreError
from xen_shadowvq.quotas import reason_of

PATH = "/local/domain/5/backend/virtio/4/0"


@pytest.mark.parametrize(("value_bytes", "of_size"), [(0, False), (1, False), (1024, False), (1025, True)])
def test_no_room(value_bytes: int, of_size: bool) -> None:
    """XenStore's answer is the same for too many nodes and for one too large: where it can be either, both are said."""
    said = reason_of(XenStoreError(errno.ENOSPC, f"{PATH}/stats", value_bytes), PATH)
    assert said.startswith("XenStore allows domain 5 no more nodes")
    assert (f"or none of {value_bytes} bytes" in said, "--entry-size" in said) == (of_size, of_size)
    assert "--entry-nb" in said


def test_no_more_watches() -> None:
    """The other quota knows no size."""
    said = reason_of(XenStoreError(errno.E2BIG, PATH, 2000), PATH)
    assert said.startswith("XenStore allows domain 5 no more watches (") and "bytes" not in said
