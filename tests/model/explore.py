# SPDX-License-Identifier: GPL-2.0-or-later
"""Breadth-first search of all states of a model: is a rule ever broken, and can everybody always get out again?

A model is a mutable state whose parts are immutable, and steps that change it. Every interleaving of the steps is
looked at, and a state is looked at once. What is found first has the shortest way to it, which is told in words.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar

State = TypeVar("State")
Packed = tuple[Any, ...]


@dataclass(frozen=True)
class Step(Generic[State]):
    """Something that somebody may do.

    Args:
        words: who does what.
        apply: changes the state and says True; or says False, and has changed nothing: it cannot be done now.
        honest: it brings things on. Only such steps count for the way out: nobody need be hostile, or lucky, for it.
    """

    words: str
    apply: Callable[[State], bool]
    honest: bool


@dataclass(frozen=True)
class Rule(Generic[State]):
    """What must be so in every state. `broken` says what is wrong, or nothing."""

    name: str
    broken: Callable[[State], str | None]


@dataclass(frozen=True)
class WayOut(Generic[State]):
    """From every state honest steps alone must lead to one that is `good`."""

    name: str
    good: Callable[[State], bool]


@dataclass(frozen=True)
class Finding:
    """A broken rule, and the shortest way to it."""

    rule: str
    what: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        steps = "\n".join(f"  {number:2}. {words}" for number, words in enumerate(self.trace, 1))
        return f"{self.rule}: {self.what}\n{steps}"


@dataclass(frozen=True)
class Explored:
    """What came out. `finding` None: all rules hold in all states."""

    states: int
    steps: int
    seconds: float
    finding: Finding | None
    never: tuple[str, ...]  # steps that could not be done in any state


class _Graph:
    """The states in the order in which they were found, and the honest steps between them."""

    def __init__(self) -> None:
        self.number: dict[Packed, int] = {}
        self.states: list[Packed] = []
        self.parent = array("l")
        self.by = array("h")
        self.sources = array("l")
        self.targets = array("l")

    def add(self, packed: Packed, parent: int, by: int) -> int:
        """Returns the state's number."""
        number = self.number.setdefault(packed, len(self.states))
        if number == len(self.states):
            self.states.append(packed)
            self.parent.append(parent)
            self.by.append(by)
        return number

    def trace(self, number: int, words: Sequence[str]) -> tuple[str, ...]:
        """The steps that first led to a state."""
        steps = []
        while self.parent[number] >= 0:
            steps.append(words[self.by[number]])
            number = self.parent[number]
        return tuple(reversed(steps))

    def stuck(self, good: Sequence[bool]) -> int | None:
        """The first state from which no honest steps lead to a good one."""
        into: list[list[int]] = [[] for _ in self.states]
        for source, target in zip(self.sources, self.targets, strict=True):
            into[target].append(source)
        reached = bytearray(len(self.states))
        todo = [number for number in range(len(self.states)) if good[number]]
        for number in todo:
            reached[number] = 1
        while todo:
            for source in into[todo.pop()]:
                if not reached[source]:
                    reached[source] = 1
                    todo.append(source)
        number = reached.find(0)
        return None if number < 0 else number


def explore(
    start: State,
    fields: Sequence[str],
    steps: Sequence[Step[State]],
    rules: Sequence[Rule[State]],
    ways_out: Sequence[WayOut[State]] = (),
    states_max: int = 5_000_000,
) -> Explored:
    """Looks at every state that can come of `start`, which it uses as its scratch; `fields` are all that a state is.

    It ends at the first broken rule. RuntimeError: more than `states_max` states, which is not what a small model has.
    """
    began = time.monotonic()
    pack: Callable[[State], Packed] = attrgetter(*fields)
    graph, words, taken = _Graph(), [step.words for step in steps], [0] * len(steps)
    good: list[list[bool]] = [[] for _ in ways_out]
    state = start

    def result(finding: Finding | None) -> Explored:
        never = tuple(step for step, times in zip(words, taken, strict=True) if not times)
        return Explored(len(graph.states), sum(taken), time.monotonic() - began, finding, never)

    graph.add(pack(state), -1, -1)
    for number, packed in enumerate(graph.states):  # grows meanwhile
        _unpack(state, fields, packed)
        for rule in rules:
            what = rule.broken(state)
            if what is not None:
                return result(Finding(rule.name, what, graph.trace(number, words)))
        for way, flags in zip(ways_out, good, strict=True):
            flags.append(way.good(state))
        for index, step in enumerate(steps):
            if step.apply(state):
                taken[index] += 1
                target = graph.add(pack(state), number, index)
                if step.honest and target != number:
                    graph.sources.append(number)
                    graph.targets.append(target)
                _unpack(state, fields, packed)
        if len(graph.states) > states_max:
            raise RuntimeError(f"more than {states_max} states")
    for way, flags in zip(ways_out, good, strict=True):
        number_stuck = graph.stuck(flags)
        if number_stuck is not None:
            return result(Finding(way.name, "no honest steps lead there any more", graph.trace(number_stuck, words)))
    return result(None)


def _unpack(state: Any, fields: Sequence[str], packed: Packed) -> None:
    for name, value in zip(fields, packed, strict=True):
        setattr(state, name, value)
