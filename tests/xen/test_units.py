# SPDX-License-Identifier: GPL-2.0-or-later
"""What the services' units leave to a process, in dom0, where there is most to take."""

import json
from typing import Any

import pytest

from tests.harness import Machine
from tests.xen import page

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]

UNITS = "/opt/shadowvq/deploy/systemd"
PROBE = "/usr/bin/python3 /opt/shadowvq/payload/confined.py"
SLEEPER = "/bin/sleep 600"
SHADOWVQ_S = 240.0  # each start of Python costs seconds there


def install(xen: Machine, role: str, name: str, command: str, kind: str) -> None:
    """A service that is confined as the one of that role, but runs `command`."""
    edit = f"s,^ExecStart=.*,ExecStart={command},; s,^Type=.*,Type={kind},; /^Restart/d"
    unit = f"/run/systemd/system/{name}.service"
    xen.run(f"sed '{edit}' {UNITS}/shadowvq-{role}.service >{unit}; systemctl daemon-reload")


def reach(xen: Machine, role: str, neighbour: str) -> dict[str, Any]:
    """What a process confined as `role` reaches, beside a service confined as `neighbour`."""
    install(xen, neighbour, "neighbour", SLEEPER, "exec")
    xen.run("mkdir -p /var/lib/shadowvq; systemctl start neighbour")
    try:
        pids = xen.run("pidof xenstored; systemctl show -P MainPID neighbour").stdout.split()
        install(xen, role, f"confined-{role}", f"{PROBE} {' '.join(pids)}", "oneshot")
        said = xen.run(f"systemctl start confined-{role}; journalctl -u confined-{role} -o cat --no-pager").stdout
    finally:
        xen.run("systemctl stop neighbour")
    (answer,) = [line for line in said.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(answer)
    return found


NOTHING_MORE: dict[str, Any] = {
    "hypercalls by other ways": [],
    "sockets": ["/run/systemd/notify", "/run/xenstored/socket"],
    "signals": [],
    "memory of": [],
}


def test_what_a_mediator_reaches(xen: Machine) -> None:
    """Four device nodes, XenStore and systemd's notifications; no file, no process, no memory of another service."""
    found = reach(xen, "mediator", "backend")

    assert found == {"devices": ["evtchn", "gntalloc", "privcmd", "xenbus"], "writable": [], **NOTHING_MORE}


def test_what_a_backend_reaches(xen: Machine) -> None:
    """No privcmd, no mediator's memory though both are root by name, no systemd to ask; its images' folder."""
    found = reach(xen, "backend", "mediator")

    assert found == {
        "devices": ["evtchn", "gntdev", "xenbus"],
        "writable": ["/var/lib/shadowvq"],
        **NOTHING_MORE,
    }


def test_what_the_service_of_guests_reaches(xen: Machine) -> None:
    """privcmd, event channels (whoever opens the hypervisor asks for those) and XenStore, and the folder of the locks
    that it shares with `ctl`; no grant."""
    found = reach(xen, "guests", "backend")

    assert found == {"devices": ["evtchn", "privcmd", "xenbus"], "writable": ["/run/shadowvq"], **NOTHING_MORE}


def test_the_service_of_guests_as_shipped(xen: Machine) -> None:
    """The unit starts, finds a bad file and no guest, says so and goes on; `ctl apply` works beside it; told to end, it
    ends well."""
    declaration = "/etc/shadowvq/guests.d/web1.yaml"
    xen.run(f"mkdir -p /etc/shadowvq/guests.d; echo 'disks: 1' >{declaration}")
    try:
        xen.run(page.script("start-guests"), deadline_s=SHADOWVQ_S)
        applied = xen.start("shadowvq ctl apply", deadline_s=SHADOWVQ_S).wait()
        assert (applied.status, applied.stdout) == (2, "web1    left alone  its file is invalid\n")
        assert applied.stderr.startswith(f"shadowvq: {declaration}:1: disks: got 1, expected a list of disks")
        shown = xen.run("systemctl show shadowvq-guests -p Type -p ActiveState -p NRestarts").stdout.split()
        assert sorted(shown) == ["ActiveState=active", "NRestarts=0", "Type=notify"]
        said = xen.run("journalctl -u shadowvq-guests -o cat --no-pager").stdout
        assert "declaration_refused" in said and "service_ready" in said and "look_failed" not in said
    finally:
        xen.run(
            f"rm {declaration}; systemctl disable --now shadowvq-guests; ! systemctl is-failed shadowvq-guests",
            deadline_s=120,
        )
