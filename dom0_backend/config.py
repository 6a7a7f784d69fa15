# SPDX-License-Identifier: GPL-2.0-or-later
"""The backend's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import PlainValidator, WithJsonSchema

from xen_shadowvq import models
from xen_shadowvq.models import Section
from xen_shadowvq.native import constants

_C = constants("backend")
PAGE = int(_C.SVQ_PAGE_SIZE)
LARGEST_COPY = int(_C.SVQ_BE_COPY_PAGES_MAX) * PAGE


def _grant_copy(value: object) -> object:
    if value in ("auto", "never"):
        return value
    if type(value) is int and value % PAGE == 0 and PAGE <= value <= LARGEST_COPY:
        return value
    raise ValueError("no such size")


# One validator for words and sizes, so that a mistake is one sentence.
GrantCopy = Annotated[
    Literal["auto", "never"] | int,
    PlainValidator(_grant_copy),
    WithJsonSchema(
        {"type": "string", "description": f"auto, never, or a multiple of {PAGE} from {PAGE} to {LARGEST_COPY}"}
    ),
]


class BackendConfig(Section):
    """
    The whole file; every key has a default. `grant_copy`: up to which size, in bytes of whole pages, the hypervisor
    copies the buffers of one direction of a request in place of their being mapped.
    """

    grant_copy: GrantCopy = "auto"

    @property
    def copy_pages(self) -> int:
        """`copy_pages` of struct svq_be_config."""
        match self.grant_copy:
            case "auto":
                return int(_C.SVQ_BE_COPY_AUTO)
            case "never":
                return 0
            case size:
                return size // PAGE


def load(path: Path | str) -> BackendConfig:
    """Loads a configuration file. ConfigError lists every mistake in it, one sentence each."""
    return models.load(BackendConfig, Path(path))
