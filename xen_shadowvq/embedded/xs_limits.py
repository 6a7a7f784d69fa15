# SPDX-License-Identifier: GPL-2.0-or-later
"""What one unprivileged domain may use of the store; the defaults are those of xenstored 4.17."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Quotas. Those without another note hold for unprivileged domains only.

    As in xenstored, `watches_max` and `transactions_max` are compared with `>` before one is added, so one more fits.
    """

    nodes_max: int = 1000
    node_bytes_max: int = 2048
    perms_max: int = 5
    watches_max: int = 128
    transactions_max: int = 10
    transaction_nodes_max: int = 1024
    # A path's length, not counting a leading /local/domain/<domid>/; every domain.
    path_bytes_max: int = 2048
    # The next ones bound what a connection can make the server hold; xenstored has its own, for rings.
    connections_max: int = 32
    connections_privileged_max: int = 512
    # Above this many unsent bytes no request of the connection is read; every domain.
    unsent_pause_bytes: int = 64 * 1024
    # Above this many unsent bytes the connection is closed: its client does not read its watch events.
    unsent_bytes_max: int = 2 * 1024 * 1024
    unsent_privileged_bytes_max: int = 16 * 1024 * 1024
