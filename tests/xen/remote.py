# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls of a part of a test that runs in a domain of the machine; remote_server.py is its other end."""

from __future__ import annotations

import json
import shlex
from typing import Any

from tests.harness import Domain, Machine
from tests.harness.errors import CommandFailed
from tests.harness.scripts import until

SERVER = "/opt/shadowvq/payload/remote_server.py"
START_DEADLINE_S = 480.0
CALL_DEADLINE_S = 180.0

Place = Machine | Domain


class Remote:
    """One server in `place`, started here. `name` tells apart several in one domain."""

    def __init__(self, place: Place, role: str, *arguments: str | int, name: str = "") -> None:
        self._place = place
        self._folder = f"/run/remote-{name or role}"
        words = " ".join(map(str, (role, self._folder, *arguments)))
        place.run(
            f"rm -rf {self._folder}; mkdir {self._folder}; (python3 {SERVER} {words} >{self._folder}/log 2>&1; "
            f"touch {self._folder}/ended) & "
            + until(f"[ -e {self._folder}/ready -o -e {self._folder}/ended ]", 200)
            + f"; [ -e {self._folder}/ready ] || {{ cat {self._folder}/log >&2; exit 1; }}",
            deadline_s=START_DEADLINE_S,
        )

    def call(self, method: str, *, deadline_s: float = CALL_DEADLINE_S, **arguments: Any) -> Any:
        """Calls one method, one at a time; CommandFailed with the other end's words if it raises."""
        request = shlex.quote(json.dumps([method, arguments]))
        turn = f"printf '%s\\n' {request} >requests; read -r answer <answers; printf '%s\\n' \"$answer\""
        answer = self._place.run(f"cd {self._folder}; {turn}", deadline_s=deadline_s)
        value, error = json.loads(answer.stdout)
        if error is not None:
            raise CommandFailed(f"{method}: {error}")
        return value

    def kill(self) -> None:
        """SIGKILL."""
        self._place.run(f"pkill -KILL -f 'remote_server.py [a-z]* {self._folder}' || true")
