# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a guest's mediator domain with xl, as an operator would."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol

import xen_shadowvq
from xen_shadowvq.errors import ConfigError

CREATE_S = 180.0
_SAID_MAX = 512  # characters of xl's output that an error repeats


class DomainMaker(Protocol):
    """What `apply` needs of a toolstack."""

    def make(self, name: str, config: Path, guest: int) -> None:
        """Makes and starts the mediator's domain `name` of a guest. ConfigError: that failed, and nothing is left."""

    def destroy(self, domid: int) -> None:
        """Ends a domain. ConfigError: that failed."""


class Xl:
    """xl in dom0, and `deploy/set-target`."""

    def make(self, name: str, config: Path, guest: int) -> None:
        """
        See DomainMaker. The domain is created paused: its kernel reads only once, at start, whom it may mediate for.
        """
        _run("xl", "create", "-q", "-p", str(config), f'name="{name}"')
        try:
            domid = _run("xl", "domid", name).strip()
            _run(str(_set_target()), domid, str(guest))
            _run("xl", "unpause", domid)
        except ConfigError:
            self._destroy_quietly(name)
            raise

    def destroy(self, domid: int) -> None:
        """See DomainMaker."""
        _run("xl", "destroy", str(domid))

    def _destroy_quietly(self, name: str) -> None:
        try:
            _run("xl", "destroy", name)
        except ConfigError:
            return  # the earlier failure says more


class NoToolstack:
    """For the embedded machine, which cannot make domains."""

    def make(self, name: str, config: Path, guest: int) -> None:
        """Always raises ConfigError."""
        raise ConfigError(f"the embedded machine has no xl to make domain {name} for domain {guest} from {config}")

    def destroy(self, domid: int) -> None:
        """Always raises ConfigError."""
        raise ConfigError(f"the embedded machine has no xl to destroy domain {domid}")


def _set_target() -> Path:
    """In the image it is beside the packages' folder, in the source tree beside the package."""
    package = Path(xen_shadowvq.__file__).resolve().parent
    for folder in (package.parent.parent, package.parent):
        if (found := folder / "deploy" / "set-target").exists():
            return found
    raise ConfigError(f"deploy/set-target is missing, expected in {package.parent.parent}")


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
