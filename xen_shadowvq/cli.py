# SPDX-License-Identifier: GPL-2.0-or-later
"""The program `shadowvq`."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from xen_shadowvq import config as configuration
from xen_shadowvq import log, toolstack
from xen_shadowvq.errors import ConfigError, ShadowVQError
from xen_shadowvq.mediator import Mediator, xenstore_socket
from xen_shadowvq.service import Service
from xen_shadowvq.xenstore import XenStore

ANSWER_S = 10.0
MIB = 1 << 20

sim_option = click.option(
    "--sim",
    "sim_directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Use the embedded machine whose sockets lie there, instead of real Xen.",
)
domid_option = click.option(
    "--domid", type=click.IntRange(0, 32751), default=0, show_default=True, help="With --sim: the domain to be there."
)
timeout_option = click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0), default=ANSWER_S, show_default=True, help="Seconds."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, for machines.")


def names_a_device(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments of a command on one device, and where to look for it."""
    return sim_option(click.argument("frontend", type=int)(click.argument("device", type=int)(command)))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="xen-shadowvq")
def main() -> None:
    """Shadow virtqueues for Xen.

    A virtio device in a driver domain, and a mediator in between that gives it exactly the bytes of each request, for
    exactly as long as the request lives.

    \b
    Try it, on any Linux machine:      shadowvq demo
    Serve frontends (mediator domain): shadowvq mediator --config /etc/shadowvq.yaml
    Serve disks (driver domain):       shadowvq backend
    Give a guest a disk (dom0):        shadowvq ctl attach --frontend 5 --mediator 2 --backend 3 /srv/disk.img
    """


@main.command()
@sim_option
@domid_option
@click.option(
    "--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), help="YAML configuration file."
)
def mediator(sim_directory: Path | None, domid: int, config_path: Path | None) -> None:
    """Run the mediator: check, place and relay every request between frontends and backends.

    Runs in dom0, or in a PV domain whose `target` is the frontend. Stops on SIGTERM, letting go of everything.
    """
    with _operator_errors():
        config = configuration.load(config_path) if config_path else configuration.Config()
        log.configure(config.log.level, config.log.format)
        with Mediator(config, (sim_directory, domid) if sim_directory else None) as running:
            _run_until_signal(running.service)


@main.command()
@sim_option
@domid_option
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def backend(sim_directory: Path | None, domid: int, log_level: log.Level) -> None:
    """Run the backend: serve raw images and block devices as virtio-blk on shadow rings.

    Which image belongs to which device is said by `shadowvq ctl attach`.
    """
    from dom0_backend.backend import Backend  # noqa: PLC0415 - loads the device library, which only backends need

    with _operator_errors():
        log.configure(log_level, "auto")
        with Backend((sim_directory, domid) if sim_directory else None) as running:
            _run_until_signal(running.service)


@main.command("check-config")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def check_config(path: Path, as_json: bool) -> None:
    """Check a mediator's configuration file, and show it with all defaults filled in."""
    with _operator_errors():
        config = configuration.load(path)
    if as_json:
        click.echo(config.model_dump_json(indent=2))
    else:
        click.echo(f"{path}: good")
        for key, value in config.model_dump(mode="json").items():
            click.echo(f"  {key}: {json.dumps(value)}")


@main.group()
def ctl() -> None:
    """Attach, detach and look at devices. Runs in dom0."""


@ctl.command()
@sim_option
@click.option("--frontend", type=click.IntRange(0, 32751), required=True, help="Domain that gets the disk.")
@click.option("--mediator", "mediator_domid", type=click.IntRange(0, 32751), default=0, show_default=True)
@click.option("--backend", "backend_domid", type=click.IntRange(0, 32751), default=0, show_default=True)
@click.option("--read-only", is_flag=True)
@click.option("--direct-io", is_flag=True, help="Bypass the page cache of the backend's domain.")
@click.option("--queues", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--serial", help="Up to 20 characters, as the guest sees it.")
@click.option(
    "--placement", type=click.Choice(["exact", "page", "copy"]), help="Overrides the mediator's configuration."
)
@click.option("--wait/--no-wait", default=True, help="Wait until the backend has opened the image.", show_default=True)
@timeout_option
@click.argument("image")
@json_option
def attach(
    sim_directory: Path | None,
    frontend: int,
    mediator_domid: int,
    backend_domid: int,
    read_only: bool,
    direct_io: bool,
    queues: int,
    serial: str | None,
    placement: str | None,
    wait: bool,
    timeout_s: float,
    image: str,
    as_json: bool,
) -> None:
    """Give domain FRONTEND a disk: IMAGE is a path in the backend's domain."""
    disk = toolstack.Disk(image, read_only, direct_io, queues, serial, placement)
    with _operator_errors(), _dom0_store(sim_directory) as store:
        device = toolstack.attach(store, frontend=frontend, mediator=mediator_domid, backend=backend_domid, disk=disk)
        found = toolstack.find(store, frontend, device, mediator_domid)
        if wait and found is not None:
            _wait_offered(store, found, timeout_s)
    if as_json:
        click.echo(json.dumps({"frontend": frontend, "device": device}))
    else:
        click.echo(f"domain {frontend} has device {device} now")


def _wait_offered(store: XenStore, found: toolstack.Attached, timeout_s: float) -> None:
    """Waits until the device is offered to the frontend. ConfigError: it cannot be; then it is taken away again."""
    latest = found

    def settled() -> bool:
        nonlocal latest
        latest = toolstack.find(store, found.frontend, found.device, found.mediator) or latest
        return latest.error is not None or latest.state not in {"Initialising", "absent"}

    if not toolstack.wait_until(settled, timeout_s):
        raise ConfigError(
            f"device {found.device} of domain {found.frontend}: nobody took it up within {timeout_s:g} s "
            f"(mediator {latest.state}, backend {latest.backend_state}); are both services running?"
        )
    if latest.error is not None:
        toolstack.detach(store, latest, timeout_s)
        raise ConfigError(latest.error)


@ctl.command()
@names_a_device
@click.option("--timeout", "timeout_s", type=float, default=30.0, show_default=True, help="Seconds.")
def detach(sim_directory: Path | None, frontend: int, device: int, timeout_s: float) -> None:
    """Take DEVICE away from domain FRONTEND: requests in flight complete first.

    Where the mediator's domain is gone, this removes what is left of the device.
    """
    with _operator_errors(), _dom0_store(sim_directory) as store:
        if not toolstack.remove_orphan(store, frontend, device):
            toolstack.detach(store, _find(store, frontend, device), timeout_s)
    click.echo(f"device {device} of domain {frontend} is gone")


@ctl.command()
@names_a_device
@timeout_option
@json_option
def resize(sim_directory: Path | None, frontend: int, device: int, timeout_s: float, as_json: bool) -> None:
    """Tell domain FRONTEND that the image of DEVICE has another size now.

    Make the file or volume larger first, then call this: the guest sees the new size without a reboot. Before it is
    made smaller, the guest has to have stopped using what goes.
    """
    with _operator_errors(), _dom0_store(sim_directory) as store:
        size = toolstack.resize(store, _find(store, frontend, device), timeout_s)
    if as_json:
        click.echo(json.dumps({"frontend": frontend, "device": device, "bytes": size}))
    else:
        click.echo(f"device {device} of domain {frontend} has {size:,} bytes now")


@ctl.command("list")
@sim_option
@json_option
def list_devices(sim_directory: Path | None, as_json: bool) -> None:
    """List every device, with the state of both legs."""
    with _operator_errors(), _dom0_store(sim_directory) as store:
        found = toolstack.list_devices(store)
    if as_json:
        click.echo(json.dumps([vars(device) for device in found], indent=2))
        return
    if not found:
        click.echo("no devices; `shadowvq ctl attach` makes one")
    for device in found:
        click.echo(
            f"frontend {device.frontend}  device {device.device}  mediator {device.mediator} ({device.state})  "
            f"backend {device.backend} ({device.backend_state})" + (f"  error: {device.error}" if device.error else "")
        )


@ctl.command()
@names_a_device
@timeout_option
@json_option
def status(sim_directory: Path | None, frontend: int, device: int, timeout_s: float, as_json: bool) -> None:
    """Show the mediator's counters of one device."""
    with _operator_errors(), _dom0_store(sim_directory) as store:
        found = _find(store, frontend, device)
        counters = toolstack.status(store, found, timeout_s)
    if as_json:
        click.echo(json.dumps(counters, indent=2))
        return
    width = max(len(name) for name in counters)
    for name, value in counters.items():
        click.echo(f"{name:<{width}}  {value:,}" if isinstance(value, int) else f"{name:<{width}}  {value}")


@main.command()
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="A raw disk image; it is only read. Default: make one.",
)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("build/demo"), show_default=True
)
@click.option("--placement", type=click.Choice(["exact", "page", "copy"]), default="exact", show_default=True)
@click.option("--window", type=click.Choice(["direct", "dynamic"]), default="direct", show_default=True)
@click.option("--direct-io", is_flag=True, help="Bypass the page cache.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the mix of requests.")
@json_option
def demo(
    image: Path | None, output: Path, placement: str, window: str, direct_io: bool, seed: int, as_json: bool
) -> None:
    """Run the whole product on the embedded machine, and attack it.

    Frontend, mediator and backend are three processes. A disk is read and written through shadow virtqueues,
    compared and checked; then the backend tries every page and every grant of the frontend. Nothing needs Xen or root.
    """
    from xen_shadowvq.demo import report as reports  # noqa: PLC0415 - only the demo needs all of the product
    from xen_shadowvq.demo import runner  # noqa: PLC0415

    console = Console(stderr=as_json)
    log.configure("warning", "auto", sys.stderr)
    options = runner.Options(output, image, placement, window, direct_io, seed)
    with _operator_errors():
        with _progress(console) as step:
            report = runner.run(options, step)
        reports.write_json(report, output / "report.json")
    reports.show(report, console)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        console.print(f"also in {output / 'report.json'}")
    wrong = reports.failures(report)
    for text in wrong:
        click.secho(f"not as it must be: {text}", fg="red", err=True)
    sys.exit(1 if wrong else 0)


@main.command()
@click.option("--rounds", type=click.IntRange(5), default=7, show_default=True, help="Samples of each figure.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("build/bench"), show_default=True
)
@json_option
def bench(rounds: int, output: Path, as_json: bool) -> None:
    """Measure the data plane on the embedded machine: against a relay without checks, by size, at rest."""
    from xen_shadowvq.bench import run_bench  # noqa: PLC0415 - draws plots

    with _operator_errors():
        sys.exit(run_bench(output, rounds, as_json))


# ---- helpers -------------------------------------------------------------------------------------------------------


class _operator_errors:
    """What the operator can mend is one line on stderr and exit status 2, not a traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ShadowVQError):
            _die(str(error))


def _die(message: str) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"shadowvq: {line}", err=True)
    sys.exit(2)


def _dom0_store(sim_directory: Path | None) -> XenStore:
    return XenStore.connect(str(xenstore_socket(sim_directory, 0)) if sim_directory else None)


def _find(store: XenStore, frontend: int, device: int) -> toolstack.Attached:
    found = toolstack.find(store, frontend, device)
    if found is None:
        raise ConfigError(f"domain {frontend} has no device {device}; `shadowvq ctl list` shows what there is")
    return found


def _run_until_signal(service: Service) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()


class _Size(ProgressColumn):
    """How many MiB of how many, for steps that move bytes."""

    def render(self, task: Task) -> Text:
        if not task.fields["sized"] or task.total is None:
            return Text()
        return Text(f"{task.completed / MIB:.0f}/{task.total / MIB:.0f} MiB")


class _progress:
    """A line for each step of the demo, with a bar where its size is known."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<50}"),
            BarColumn(bar_width=10),
            _Size(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: Any = None

    def __enter__(self) -> Callable[[str, int], Callable[[int], None]]:
        self._progress.start()
        return self._step

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()

    def _step(self, name: str, size: int) -> Callable[[int], None]:
        self._finish()
        self._task = self._progress.add_task(name, total=size or None, sized=size > 0)
        return lambda done: self._progress.update(self._task, completed=done)

    def _finish(self) -> None:
        if self._task is not None:
            task = next(t for t in self._progress.tasks if t.id == self._task)
            self._progress.update(self._task, total=task.total or 1, completed=task.total or 1)
