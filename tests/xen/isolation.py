# SPDX-License-Identifier: GPL-2.0-or-later
"""What a backend domain that went bad can reach of the frontend, on real Xen: with requests alive, and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.harness.errors import CommandFailed
from tests.xen.remote import Remote
from tests.xen.topology import Topology
from xen_shadowvq.demo.isolation import judge
from xen_shadowvq.hypervisor import grants_per_frame

DRIVER_MIB = 16
PAGES_PER_MIB = 256
MEDIATOR_GRANT_FRAMES = 8
CONNECT_S = 60
PROBE_DEADLINE_S = 500.0


@dataclass(frozen=True)
class IsolationResult:
    """What the attacker found. `window_in_use` is the mediator's own account of the grants that were alive."""

    foreign_maps_allowed: int
    frames_probed: int
    grefs_probed: int
    mapped_while_live: int
    window_in_use: int
    bytes_outside_buffers: int
    writable_beyond_requests: int
    mapped_when_idle: int
    bounce_tags_seen: int
    held_requests_ok: bool


def attack(topology: Topology, image: str) -> IsolationResult:
    """
    Requests of a user-space driver are held (the backend's service is stopped, not its domain), the attacker probes,
    the requests complete, it probes again. All the driver's memory holds tags, around headers and status bytes too.
    """
    device = topology.attach(image, wait=False)
    driver = Remote(topology.frontend, "driver", device, DRIVER_MIB, name=f"driver-{device}")
    attacker = Remote(topology.backend, "attacker")
    try:
        if not attacker.call("kernel_lets_through"):
            raise CommandFailed("the attacker's own kernel refuses hypercalls: what Xen refuses would not be seen")
        driver.call("connect", timeout_s=CONNECT_S)
        chains = topology.status(device)["chains"]
        with topology.backend_stopped():
            held = driver.call("start_held", offset=0)
            chains += held["requests"]
            counters = topology.until_status(device, f"{chains} chains taken", lambda now: now["chains"] >= chains)
            live = _probe(topology, attacker)
        ended = driver.call("finish_held")
        idle = _probe(topology, attacker)
        driver.call("disconnect")
    finally:
        attacker.kill()
        driver.kill()
    topology.detach(device)
    live_verdict, idle_verdict = judge(live, held["buffers"]), judge(idle, [])
    return IsolationResult(
        foreign_maps_allowed=live["frames_allowed"] + idle["frames_allowed"],
        frames_probed=live["frames_tried"] + idle["frames_tried"],
        grefs_probed=live["grefs_tried"] + idle["grefs_tried"],
        mapped_while_live=live["frontend_grefs_mapped"],
        window_in_use=counters["window_in_use"],
        bytes_outside_buffers=live_verdict.bytes_outside + idle_verdict.bytes_outside,
        writable_beyond_requests=live_verdict.writable_outside + idle_verdict.writable_outside,
        mapped_when_idle=idle["frontend_grefs_mapped"],
        bounce_tags_seen=len(live["tags"]) - len(live["frontend_frames"]),
        held_requests_ok=ended["statuses"] == [0] and ended["count"] == held["requests"],
    )


def _probe(topology: Topology, attacker: Remote) -> dict[str, Any]:
    spec = topology.frontend.spec
    found: dict[str, Any] = attacker.call(
        "probe",
        deadline_s=PROBE_DEADLINE_S,
        frontend=topology.frontend.domid,
        frontend_frames=spec.memory_mib * PAGES_PER_MIB,
        frontend_grefs=spec.max_grant_frames * grants_per_frame(),
        mediator=topology.mediator.domid,
        mediator_grefs=MEDIATOR_GRANT_FRAMES * grants_per_frame(),
    )
    return found
