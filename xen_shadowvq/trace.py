# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace of a queue as the mediator tells it and `shadowvq ctl trace` shows it: its form in XenStore."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xenstore_schema import nodes

HEADS_SHOWN = 32
_ROOM_FOR_NONCE = 32
_U64_MAX = 2**64 - 1

Count = Annotated[int, Field(ge=0, le=_U64_MAX)]
Word = Annotated[str, Field(max_length=40)]


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class TraceEvent(_Told):
    """See struct svq_trace_entry; the time is told as an age."""

    number: Count
    age_us: Count
    event: Word
    head: Count | None
    parts: Count
    granted: Count
    copied: Count
    pages: Count
    bytes: Count
    used_length: Count
    code: Word | None


FIELDS = tuple(TraceEvent.model_fields)


class QueueTrace(_Told):
    """One queue: where it stands, and its latest events, oldest first."""

    queue: Count
    queues: Count
    connection: Word
    """`live`, `ended` (the one before, as it was at its end), or `none`: there has been none yet."""
    every: Count
    """Every so many chains one is traced; 0: none."""
    state: Word = "none"
    parked: bool = False
    in_flight: Count = 0
    heads: tuple[Count, ...] = ()
    """Of the chains in flight, the first of them."""
    available: Count = 0
    """Chains that the driver has made available and that were not taken yet."""
    used: Count = 0
    """Chains that the backend has returned and that were not completed yet."""
    events: tuple[TraceEvent, ...] = ()

    def packed(self) -> dict[str, object]:
        """For the node `trace`: events as lists, and as many of the latest as there is room for."""
        rest = self.model_dump(mode="json", exclude={"events"})
        room = nodes.VirtioBack.TRACE.bytes_max - len(_compact(rest)) - _ROOM_FOR_NONCE
        return {**rest, "events": _that_fit([list(one.model_dump().values()) for one in self.events], room)}

    @classmethod
    def unpacked(cls, untrusted: Mapping[str, Any]) -> Self | None:
        """What `packed` made; None: it is not."""
        try:
            events = [dict(zip(FIELDS, one, strict=True)) for one in untrusted.get("events", ())]
            told = {**untrusted, "events": events}
            return cls.model_validate_json(json.dumps(told))
        except (ValidationError, TypeError, ValueError):
            return None


def _that_fit(events: Iterable[list[object]], room: int) -> list[list[object]]:
    latest: list[list[object]] = []
    for event in reversed(list(events)):
        room -= len(_compact(event)) + 1
        if room < 0:
            break
        latest.insert(0, event)
    return latest


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
