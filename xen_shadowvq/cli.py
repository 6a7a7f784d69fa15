# SPDX-License-Identifier: GPL-2.0-or-later
"""The program `shadowvq`."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import click
from rich.console import Console

from xen_shadowvq import config as configuration
from xen_shadowvq import devices, log, sweeping, toolstack
from xen_shadowvq.cli_apply import apply, guests
from xen_shadowvq.cli_demo import bench, bench_fairness, demo
from xen_shadowvq.cli_options import (
    config_option,
    domid_option,
    json_option,
    log_level_option,
    names_a_device,
    sim_option,
    timeout_option,
)
from xen_shadowvq.cli_trace import trace
from xen_shadowvq.dom0 import CONFLICTS_PATIENCE_S, Dom0
from xen_shadowvq.errors import ConfigError
from xen_shadowvq.new_device import Disk
from xen_shadowvq.output import printable, say, say_json
from xen_shadowvq.parameters import Domain, Seconds
from xen_shadowvq.program import Program
from xen_shadowvq.service import Service


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="xen-shadowvq")
def main() -> None:
    """Shadow virtqueues for Xen.

    A virtio device in a driver domain, and a mediator in between that gives it exactly the bytes of each request, for
    exactly as long as the request lives.

    \b
    Try it, on any Linux machine:      shadowvq demo
    Serve frontends (mediator domain): shadowvq mediator --config /etc/shadowvq/shadowvq.yaml
    Serve disks (driver domain):       shadowvq backend
    Give a guest a disk (dom0):        shadowvq ctl attach --frontend web1 --mediator med --backend drv IMAGE
    Give guests their disks (dom0):    shadowvq guests
    """


@main.command(short_help="Run the mediator between guests and backends.")
@sim_option
@domid_option
@config_option
def mediator(sim_directory: Path | None, domid: int, config_path: Path | None) -> None:
    """Run the mediator: check, place and relay every request between frontends and backends.

    Runs in dom0, or in a PV domain whose `target` is the frontend. On SIGTERM it stops and releases everything.
    """
    from xen_shadowvq.mediator import Mediator  # noqa: PLC0415 - which no other command needs

    config = configuration.load(config_path) if config_path else configuration.Config()
    log.configure(config.log.level, config.log.format)
    with Mediator(config, (sim_directory, domid) if sim_directory else None) as running:
        _run_until_signal(running.service)


@main.command(short_help="Run the backend: images and block devices on shadow rings.")
@sim_option
@domid_option
@config_option
@log_level_option
def backend(sim_directory: Path | None, domid: int, config_path: Path | None, log_level: log.Level) -> None:
    """Run the backend: serve raw images and block devices as virtio-blk on shadow rings.

    `shadowvq ctl attach` says which image belongs to which device.
    """
    from dom0_backend import config as backend_configuration  # noqa: PLC0415 - a backend's
    from dom0_backend.backend import Backend  # noqa: PLC0415 - loads the device library, which only backends need

    config = backend_configuration.load(config_path) if config_path else None
    log.configure(log_level, "auto")
    with Backend((sim_directory, domid) if sim_directory else None, config) as running:
        _run_until_signal(running.service)


@main.command("check-config", short_help="Check a mediator's configuration file.")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def check_config(path: Path, as_json: bool) -> None:
    """Check a mediator's configuration file, and show it with all defaults filled in."""
    config = configuration.load(path)
    if as_json:
        say_json(config.model_dump(mode="json"))
    else:
        say(f"{path}: valid")
        for key, value in config.model_dump(mode="json").items():
            say(f"  {key}: {json.dumps(value)}")


@main.group()
def ctl() -> None:
    """Attach, detach and inspect devices. Runs in dom0."""


@ctl.command(short_help="Give a guest a disk.")
@sim_option
@click.option("--frontend", type=Domain(), required=True, help="Name or id of the domain that gets the disk.")
@click.option(
    "--mediator",
    "mediator_domain",
    type=Domain(),
    default="0",
    show_default=True,
    help="Name or id of the domain that mediates.",
)
@click.option(
    "--backend",
    "backend_domain",
    type=Domain(),
    default="0",
    show_default=True,
    help="Name or id of the domain that has the image.",
)
@click.option("--read-only", is_flag=True, help="Give the guest a disk that it cannot write to.")
@click.option("--direct-io", is_flag=True, help="Bypass the page cache of the backend's domain.")
@click.option(
    "--shareable",
    is_flag=True,
    help="Let others write to the image at the same time. All concurrent writers need this option.",
)
@click.option("--queues", type=click.IntRange(1, 64), default=1, show_default=True, help="Queues of the device.")
@click.option("--serial", help="Serial number that the guest sees, up to 20 characters.")
@click.option(
    "--placement", type=click.Choice(["exact", "page", "copy"]), help="Overrides the mediator's configuration."
)
@click.option("--wait/--no-wait", default=True, help="Wait until the backend has opened the image.", show_default=True)
@timeout_option
@click.argument("image")
@json_option
def attach(
    sim_directory: Path | None,
    frontend: str,
    mediator_domain: str,
    backend_domain: str,
    read_only: bool,
    direct_io: bool,
    shareable: bool,
    queues: int,
    serial: str | None,
    placement: str | None,
    wait: bool,
    timeout_s: float,
    image: str,
    as_json: bool,
) -> None:
    """Give domain FRONTEND a disk: IMAGE is a path in the backend's domain.

    An image that is written to belongs to one device, and to no other program. Several devices may read the same image.
    """
    disk = Disk(image, read_only, direct_io, queues, serial, placement, shareable=shareable)
    with Dom0(sim_directory) as dom0:
        domid, mediator, backend = map(dom0.domid, (frontend, mediator_domain, backend_domain))
        patience_s = min(timeout_s, CONFLICTS_PATIENCE_S)
        device = toolstack.attach(
            dom0, frontend=domid, mediator=mediator, backend=backend, disk=disk, patience_s=patience_s
        )
        if wait:
            toolstack.wait_offered(dom0, domid, device, timeout_s)
        if as_json:
            say_json({"frontend": domid, "device": device})
        else:
            say(f"domain {dom0.domain_name(domid)} now has device {device}")


@ctl.command(short_help="Take a device away from a guest.")
@names_a_device
@click.option("--timeout", "timeout_s", type=Seconds(), default=30.0, show_default=True, help="Seconds to wait.")
@json_option
def detach(sim_directory: Path | None, frontend: str, device: int, timeout_s: float, as_json: bool) -> None:
    """Take DEVICE away from domain FRONTEND: requests in flight complete first.

    Returns when no backend can reach a page of them any more. If one keeps pages mapped, that is when it unmaps them or
    its domain is destroyed. If the mediator's domain is gone, this takes back what the mediator had granted.
    """
    with Dom0(sim_directory) as dom0:
        domid = dom0.domid(frontend)
        toolstack.detach(dom0, domid, device, timeout_s)
        if as_json:
            say_json({"frontend": domid, "device": device})
        else:
            say(f"device {device} of domain {dom0.domain_name(domid)} is gone")


@ctl.command(short_help="Take back what mediators that are gone had granted.")
@sim_option
@click.argument("frontend", type=Domain(), required=False)
@json_option
def sweep(sim_directory: Path | None, frontend: str | None, as_json: bool) -> None:
    """Take back what mediators that are gone had granted, for domain FRONTEND or for all guests.

    A mediator that starts does this for its own devices. Use this command for mediators whose domain will not come
    back. Exit status 1: a backend still has pages mapped; destroy its domain, then run this again.
    """
    console = Console(stderr=True)
    found: list[sweeping.SweptDevice] = []
    with Dom0(sim_directory) as dom0:
        with console.status("taking back grants") as shown:
            for one in sweeping.sweep(dom0, None if frontend is None else dom0.domid(frontend)):
                found.append(one)
                shown.update(f"taking back grants: {len(found)} devices looked at")
        if frontend is not None and found and all(one.refused for one in found):
            raise ConfigError(*(_swept_line(dom0, one) for one in found))
        if as_json:
            say_json([{**one.as_json(), "frontend_name": dom0.name_of(one.frontend)} for one in found])
        else:
            for one in found:
                say(_swept_line(dom0, one))
            if not found:
                say("nothing to take back: no guest has a device")
    sys.exit(1 if any(one.held for one in found) else 0)


def _swept_line(dom0: Dom0, one: sweeping.SweptDevice) -> str:
    device = "an earlier device" if one.device is None else f"device {one.device}"
    name = f"frontend {dom0.domain_name(one.frontend)}  {device}"
    if one.refused:
        return f"{name}  left alone: {one.refused}"
    outcome = f"{name}  taken back: {one.freed}"
    return f"{outcome}  held: {devices.who_holds(dom0, one.held, one.backend)}" if one.held else outcome


@ctl.command(short_help="Tell a guest that a disk's image has a new size.")
@names_a_device
@timeout_option
@json_option
def resize(sim_directory: Path | None, frontend: str, device: int, timeout_s: float, as_json: bool) -> None:
    """Tell domain FRONTEND that the image of DEVICE has a new size.

    Enlarge the file or volume first, then run this: the guest sees the new size without a reboot. Before you shrink it,
    the guest must have stopped using the part that goes away.
    """
    with Dom0(sim_directory) as dom0:
        domid = dom0.domid(frontend)
        size = devices.resize(dom0, devices.find(dom0, domid, device), timeout_s)
        if as_json:
            say_json({"frontend": domid, "device": device, "bytes": size})
        else:
            say(f"device {device} of domain {dom0.domain_name(domid)} now has {size:,} bytes")


@ctl.command("list")
@sim_option
@json_option
def list_devices(sim_directory: Path | None, as_json: bool) -> None:
    """List every device, with the state of both legs."""
    with Dom0(sim_directory) as dom0:
        with dom0.alone():
            toolstack.tidy(dom0)
        found = devices.list_devices(dom0)
        if as_json:
            say_json([device.as_json() for device in found])
            return
        if not found:
            say("no devices; `shadowvq ctl attach` makes one")
        for device in found:
            say(_device_line(dom0, device))


def _device_line(dom0: Dom0, device: devices.Attached) -> str:
    parts = [
        f"frontend {dom0.domain_name(device.frontend)}",
        f"device {device.device}",
        f"mediator {dom0.domain_name(device.mediator)}: {device.state}",
        f"backend {dom0.domain_name(device.backend)}: {device.backend_state}",
    ]
    if device.orphaned:
        parts.append(f"orphaned: `shadowvq ctl sweep {device.frontend}` takes back what its mediator had granted")
    if device.held_pages:
        parts.append(f"held: {devices.who_holds(dom0, device.held_pages, device.held_by)}")
    if device.error:
        parts.append(f"error: {device.error}")
    return "  ".join(parts)


@ctl.command()
@names_a_device
@timeout_option
@json_option
def status(sim_directory: Path | None, frontend: str, device: int, timeout_s: float, as_json: bool) -> None:
    """Show the counters of one device.

    They are the mediator's, since the device connected, summed over its queues; those that begin with `backend_` are
    the backend's own. docs/xen-host.md says what each means.
    """
    with Dom0(sim_directory) as dom0:
        counters = devices.status(dom0, devices.find(dom0, dom0.domid(frontend), device), timeout_s)
        if as_json:
            say_json(counters)
            return
        width = max(len(printable(name)) for name in counters)
        for name, value in counters.items():
            shown = f"{value:,}" if isinstance(value, int) else value
            say(f"{printable(name):<{width}}  {shown}")
        if counters.get("held_pages"):
            say(f"held: {devices.who_holds(dom0, counters['held_pages'], counters['held_by'])}")


main.add_command(guests)
main.add_command(demo)
main.add_command(bench)
main.add_command(bench_fairness)
ctl.add_command(apply)
ctl.add_command(trace)

# ---- helpers -------------------------------------------------------------------------------------------------------


def _run_until_signal(service: Service) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
