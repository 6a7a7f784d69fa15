# SPDX-License-Identifier: GPL-2.0-or-later
"""Making the mediator's domain of a guest, by xl, as an operator would."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol

import xen_shadowvq
from xen_shadowvq.errors import ConfigError

CREATE_S = 180.0
_SAID_MAX = 512  # characters of what xl says that an error repeats


class DomainMaker(Protocol):
    """What `apply` needs of a toolstack."""

    def make(self, name: str, config: Path, guest: int) -> None:
        """Makes and starts the mediator's domain `name` of a guest. ConfigError: that failed, and nothing is left."""

    def destroy(self, domid: int) -> None:
        """Ends a domain. ConfigError: that failed."""


class Xl:
    """xl in dom0, and `deploy/set-target`."""

    def make(self, name: str, config: Path, guest: int) -> None:
        """As in DomainMaker. It is created paused: its kernel reads once, when it starts, for whom it may mediate."""
        _run("xl", "create", "-q", "-p", str(config), f'name="{name}"')
        try:
            domid = _run("xl", "domid", name).strip()
            _run(str(_set_target()), domid, str(guest))
            _run("xl", "unpause", domid)
        except ConfigError:
            self._destroy_quietly(name)
            raise

    def destroy(self, domid: int) -> None:
        """As in DomainMaker."""
        _run("xl", "destroy", str(domid))

    def _destroy_quietly(self, name: str) -> None:
        try:
            _run("xl", "destroy", name)
        except ConfigError:
            return  # what failed before says more


class NoToolstack:
    """The embedded machine's."""

    def make(self, name: str, config: Path, guest: int) -> None:
        """ConfigError."""
        raise ConfigError(f"the embedded machine has no xl to make domain {name} for domain {guest} from {config}")

    def destroy(self, domid: int) -> None:
        """ConfigError."""
        raise ConfigError(f"the embedded machine has no xl to destroy domain {domid}")


def _set_target() -> Path:
    """In the image it lies beside the packages' folder, in the sources beside the package."""
    package = Path(xen_shadowvq.__file__).resolve().parent
    for folder in (package.parent.parent, package.parent):
        if (found := folder / "deploy" / "set-target").exists():
            return found
    raise ConfigError(f"deploy/set-target is not there, expected in {package.parent.parent}")


def _run(*words: str) -> str:
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CREATE_S, check=False
        )
    except OSError as error:
        raise ConfigError(f"{words[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"`{' '.join(words)}` did not end within {CREATE_S:g} s") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-_SAID_MAX:]
        raise ConfigError(f"`{' '.join(words)}` failed with status {done.returncode}: {said or 'no reason given'}")
    return done.stdout
