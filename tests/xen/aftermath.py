# SPDX-License-Identifier: GPL-2.0-or-later
"""What a backend domain that keeps mappings can reach afterwards, on real Xen, and after its mediator's end."""

from __future__ import annotations

import json
from typing import Any

from tests.harness import Domain
from tests.harness.domains import DESTROY_S
from tests.harness.scripts import until
from tests.xen.isolation import CONNECT_S, DRIVER_MIB, MEDIATOR_GRANT_FRAMES, PAGES_PER_MIB
from tests.xen.remote import Remote
from tests.xen.topology import Topology, start_services
from xen_shadowvq.demo.aftermath import Aftermath, Witness
from xen_shadowvq.hypervisor import grants_per_frame

LOOK_DEADLINE_S = 300.0


class _Attacker:
    """
    The attacker beside the honest backend, which is stopped (SIGSTOP) while requests are to be held. Of the frontend's
    grant table it tries every entry that is not 0, as dom0 sees it: the others let nobody at anything.
    """

    def __init__(self, topology: Topology, device: int) -> None:
        self._topology, self._device = topology, device
        self._remote = Remote(topology.backend, "attacker")
        self._auditor = Remote(topology.machine, "auditor")
        self._chains = 0

    def __call__(self, method: str, /, **arguments: Any) -> Any:
        if method == "hold":
            return self._hold(arguments["on"])
        if method == "wait_held":
            return self._wait_held(arguments["requests"])
        if method in ("keep", "see"):
            arguments["grefs"] = self._auditor.call("grefs_in_use", domid=arguments["frontend"])
        answer = self._remote.call(method, deadline_s=LOOK_DEADLINE_S, **arguments)
        if method == "let_go":
            self._hold(False)
        return answer

    def end(self) -> None:
        """Both are gone, and the backend goes on."""
        self._hold(False)
        self._remote.kill()
        self._auditor.kill()

    def _hold(self, on: bool) -> None:
        if on:
            self._chains = int(self._topology.status(self._device)["chains"])
        self._topology.backend.run(f"systemctl kill -s {'STOP' if on else 'CONT'} shadowvq-backend")

    def _wait_held(self, requests: int) -> None:
        wanted = self._chains + requests
        self._topology.until_status(self._device, f"{wanted} chains taken", lambda now: now["chains"] >= wanted)


def watch(topology: Topology, image: str) -> dict[str, Aftermath]:
    """The three ends, by the report's names. Mediator and backend are in domains of their own."""
    machine, mediator = topology.machine, topology.mediator
    guest, operator = topology.frontend, topology.operator
    assert isinstance(mediator, Domain)
    device = topology.attach(image, wait=False)
    driver = Remote(guest, "driver", device, DRIVER_MIB, name=f"driver-{device}")
    attacker = _Attacker(topology, device)

    def frontend(method: str, /, **arguments: Any) -> Any:
        return driver.call(method, deadline_s=LOOK_DEADLINE_S, **arguments)

    def kill() -> None:
        mediator.run("systemctl kill -s KILL shadowvq-mediator")

    def destroy() -> None:  # what the backend has mapped keeps the domain from vanishing: nobody waits for that yet
        machine.run(f"xl destroy {mediator.domid}")

    def sweep() -> int:
        _, output = operator.ask("ctl", "sweep", "--json", str(guest.domid))
        return sum(int(one["held_pages"]) for one in json.loads(output))

    where = {
        "frontend": guest.domid,
        "frames": guest.spec.memory_mib * PAGES_PER_MIB,
        "grefs": 0,
        "mediator": mediator.domid,
        "mediator_grefs": MEDIATOR_GRANT_FRAMES * grants_per_frame(),
    }
    witness = Witness(frontend, attacker, where)
    try:
        frontend("connect", timeout_s=CONNECT_S)
        found = {
            "kept_mapping": witness.kept_mapping(0),
            "mediator_killed": witness.mediator_killed(0, kill, lambda: start_services({"mediator": mediator})),
            "mediator_destroyed": witness.mediator_destroyed(0, destroy, sweep),
        }
    finally:
        attacker.end()
        driver.kill()
    topology.detach(device)
    machine.run(until(f"! xl list {mediator.domid} >/dev/null 2>&1"), deadline_s=DESTROY_S)
    topology.replace_mediator(mediator.spec)
    return found
