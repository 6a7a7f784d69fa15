# SPDX-License-Identifier: GPL-2.0-or-later
"""Telling the service manager how far a service has come, by the rules of sd_notify(3)."""

from __future__ import annotations

import os
import socket

from xen_shadowvq.log import get_logger

_PATIENCE_S = 1.0
_ABSTRACT, _PATH = "@", "/"


def notify_systemd(state: str) -> None:
    """
    Tells a service manager, if there is one, that we are in `state`. Trouble with that is only logged: a manager that
    does not listen is no reason to refuse service, or to leave devices behind at the end.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        if not address.startswith((_ABSTRACT, _PATH)):
            raise ValueError("neither a path nor an abstract name")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(_PATIENCE_S)  # its queue may be full
            sock.connect("\0" + address[1:] if address.startswith(_ABSTRACT) else address)
            sock.send(state.encode())
    except (OSError, ValueError) as error:
        get_logger().warning("service_manager_not_told", state=state, address=address, reason=str(error))
