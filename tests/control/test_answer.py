# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that are numbers, and answers that name one: many who ask at once, and answers that take their time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from xen_shadowvq.answer import Answer, is_answered, next_request
from xenstore_schema.nodes import SvqBack

PATH = "/d"
LAST = 2**32 - 1


class Nodes:
    """As much of XenStore as an Answer needs."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {f"{PATH}/state": "4"}

    def read(self, path: str) -> str | None:
        return self.texts.get(path)

    def write(self, path: str, text: str) -> None:
        self.texts[path] = text

    def in_transaction(self, work: Callable[[Nodes], bool]) -> bool:
        return work(self)

    @property
    def answered(self) -> dict[str, Any]:
        """What stands in the answer."""
        found: dict[str, Any] = json.loads(self.texts.get(f"{PATH}/resize", "{}"))
        return found


def ask(store: Nodes, number: int) -> None:
    store.texts[f"{PATH}/resize-request"] = str(number)


def answer_of(store: Nodes) -> Answer:
    return Answer(store, PATH, SvqBack.RESIZE_REQUEST, SvqBack.RESIZE)  # type: ignore[arg-type]


def test_numbers_go_round() -> None:
    """Each request has the number after that of the one before, and none is 0, which stands for no request."""
    assert [next_request(number) for number in (0, 1, LAST - 1, LAST)] == [1, 2, LAST, 1]


@pytest.mark.parametrize(("request_", "nonce"), [(5, 5), (5, 6), (LAST, LAST), (LAST, 1), (LAST - 3, 40)])
def test_a_later_answer_is_one_to_all_before(request_: int, nonce: int) -> None:
    """The answer to a later request also answers an earlier one, even if the numbers have started over since."""
    assert is_answered(request_, nonce)


@pytest.mark.parametrize(
    ("request_", "untrusted"),
    [(5, 4), (1, LAST), (5, None), (1, True), (5, "5"), (5, 5.0), (5, -1), (5, 0), (5, 2**32 + 5), (5, [5])],
)
def test_no_answer(request_: int, untrusted: object) -> None:
    """Neither an earlier answer nor anything that is no number of a request is an answer."""
    assert not is_answered(request_, untrusted)


def test_a_crowd_faster_than_the_rate_is_answered_by_the_latest() -> None:
    """Of a thousand requests faster than they may be answered the last gets its answer when the rate allows one, and
    with it all are answered."""
    store = Nodes()
    answer = answer_of(store)
    reports = 0

    def report() -> dict[str, object]:
        nonlocal reports
        reports += 1
        return {}

    for number in range(1, 1001):
        ask(store, number)
        answer.look(report)
    assert reports < 1000
    while answer.rate.due is not None:
        answer.look(report)
    assert store.answered == {"nonce": 1000}


def test_new_requests_do_not_put_off_an_answer_under_way() -> None:
    """An answer that takes its time is given to the request it was begun for, however many came since; then those get
    one of their own."""
    store = Nodes()
    answer = answer_of(store)
    begun: list[int | None] = []
    found: dict[str, object] | None = None

    def report() -> dict[str, object] | None:
        begun.append(answer.asked)
        return found

    for number in (1, 2, 3):
        ask(store, number)
        answer.look(report)
    assert set(begun) == {1} and store.answered == {}
    found = {"bytes": 512}
    answer.look(report)
    assert begun[-2:] == [1, 3] and store.answered == {"nonce": 3, "bytes": 512}


def test_nobody_has_asked() -> None:
    """Without a request, or with 0 in its place, no answer is written."""
    store = Nodes()
    answer = answer_of(store)
    for number in (None, 0):
        if number is not None:
            ask(store, number)
        answer.look(lambda: {})
    assert store.answered == {}
