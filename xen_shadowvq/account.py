# SPDX-License-Identifier: GPL-2.0-or-later
"""
What mediator and backend answer to `stats-request`, as `shadowvq ctl status` may use it.

A domain that is in an attacker's hands may answer anything. So an answer has a form, and nothing of it says whose
device this is or who holds pages: that is for dom0 to know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from xen_shadowvq.errors import PeerProtocolError

FIELDS_MAX = 128
_U64_MAX = 2**64 - 1

Name = Annotated[str, Field(pattern=r"\A[a-z0-9_]{1,40}\z")]
Count = Annotated[int, Field(ge=0, le=_U64_MAX)]
Word = Annotated[str, Field(pattern=r"\A[\x20-\x7e]{0,40}\z")]
Fields = Annotated[dict[Name, Count | bool | Word], Field(max_length=FIELDS_MAX)]

_EXPECTED = (
    f"up to {FIELDS_MAX} fields with names of a-z, 0-9 and _, each a number from 0 to 2^64-1, true, false, or up to "
    "40 printable ASCII characters, among them state, backend_state and held_pages"
)
_DOM0_KNOWS = {"frontend", "device", "backend", "held_by"}
_OF_THE_BACKEND = "backend_"


class _Standing(BaseModel):
    """Fields that no answer lacks."""

    model_config = ConfigDict(strict=True)

    state: Word
    backend_state: Word
    held_pages: Count


_FIELDS: TypeAdapter[dict[str, int | bool | str]] = TypeAdapter(Fields, config=ConfigDict(strict=True))
_COUNTER: TypeAdapter[dict[str, int]] = TypeAdapter(dict[Name, Count], config=ConfigDict(strict=True))


def of_mediator(untrusted: Mapping[str, Any], whose: str) -> dict[str, int | bool | str]:
    """
    The mediator's account of a device, without what dom0 knows better. `whose` names the answer. PeerProtocolError: the
    answer is none of that form.
    """
    told = {name: value for name, value in untrusted.items() if name not in _DOM0_KNOWS}
    try:
        _Standing.model_validate(told)
        fields = _FIELDS.validate_python(told)
    except ValidationError as error:
        raise PeerProtocolError(*_what(whose, told, error)) from error
    forged = next((name for name in fields if name.startswith(_OF_THE_BACKEND) and name != "backend_state"), None)
    if forged is not None:
        raise PeerProtocolError(whose, forged, "no counter of the backend, which answers for itself")
    return fields


def of_backend(untrusted: Mapping[str, Any]) -> dict[str, int]:
    """The backend's counters, as `backend_...`. What is no named counter is left out, and so are those too many."""
    found: dict[str, int] = {}
    for name, value in untrusted.items():
        if len(found) < FIELDS_MAX and name != "state" and _is_counter(name, value):
            found[f"{_OF_THE_BACKEND}{name}"] = value
    return found


def _is_counter(untrusted_name: str, untrusted_value: object) -> bool:
    try:
        _COUNTER.validate_python({untrusted_name: untrusted_value})
    except ValidationError:
        return False
    return True


def _what(whose: str, told: Mapping[str, Any], error: ValidationError) -> tuple[str, str | None, str]:
    """The answer, the first of its fields that is wrong, and what was expected."""
    where = error.errors(include_url=False)[0]["loc"]
    if not where:
        return whose, f"{len(told)} fields", _EXPECTED
    name = str(where[0])
    return whose, f"{name}: {json.dumps(told[name])}" if name in told else f"no {name}", _EXPECTED
