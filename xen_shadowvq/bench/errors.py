# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with a benchmark, besides the figures."""

from __future__ import annotations

from xen_shadowvq.errors import ShadowVQError

_SHOWN_LINES = 5


class BenchmarkFailed(ShadowVQError):
    """A benchmark did not finish, so there are no figures. `case` names it; `output` is what its program printed."""

    def __init__(self, case: str, reason: str, output: bytes) -> None:
        said = output.decode(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
        super().__init__("\n".join([f"benchmark {case}: {reason}", *said]))
        self.case = case
        self.reason = reason
