# SPDX-License-Identifier: GPL-2.0-or-later
"""Kinds of values on the command line."""

from __future__ import annotations

from typing import Any

import click

from xenstore_schema.spec import DOMID_MAX

SECONDS_MAX = 86400.0


class Domain(click.ParamType[str]):
    """A domain, by its id or its name; `Dom0.domid` resolves it. All digits are an id, as for `xl`."""

    name = "domain"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text or (text.isdecimal() and not (text.isascii() and len(text) <= 5 and int(text) <= DOMID_MAX)):
            self.fail(f"{value!r} is not a domain, expected a name, or an id from 0 to {DOMID_MAX}", param, ctx)
        return text


class Seconds(click.ParamType[float]):
    """
    A time to wait: more than 0, at most a day. NaN is neither below nor above any limit, so ranges let it through.
    """

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds <= SECONDS_MAX:
            self.fail(f"{value!r} is not a time, expected seconds: more than 0, at most {SECONDS_MAX:.0f}", param, ctx)
        return seconds
