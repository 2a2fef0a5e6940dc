# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.backend.queue`: what may wait, and whose turn it is."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from flagtriton.protocol.settings import QueueLimits
from flagtriton_server.backend.queue import QueuedRequest, WorkQueue
from flagtriton_server.errors import RequestError
from tests.support.steps.jobs import TURN, job, queue, settable_clock

LIMITS = QueueLimits(requests=3, tokens=100)

each_priority = pytest.mark.parametrize("bulk", [False, True], ids=["interactive", "bulk"])


def turns(of: WorkQueue[Any]) -> list[list[Any]]:
    """Return the work of all turns that are left, once the queue is closed."""
    of.close()
    return [[each.work for each in turn] for turn in iter(of.take, [])]


def refusal(of: WorkQueue[Any], refused: QueuedRequest[Any]) -> RequestError:
    with pytest.raises(RequestError) as raised:
        of.put(refused)
    return raised.value


# What may wait.


@pytest.mark.parametrize(("budget", "requests"), [(16, 64), (2048, 64), (2080, 65), (4096, 128), (65_536, 2048)])
def test_the_work_of_32_passes_may_wait_and_few_enough_requests_for_a_moment(budget: int, requests: int) -> None:
    assert QueueLimits.for_budget(budget) == QueueLimits(requests, 32 * budget, timeout_s=60.0)


@each_priority
def test_no_more_requests_wait_than_may(bulk: bool) -> None:
    full = queue(*(job(number, bulk=bulk) for number in range(3)), limits=LIMITS)
    refusal(full, job("fourth", bulk=bulk))
    assert turns(full) == [[0, 1, 2]]


@each_priority
def test_no_more_tokens_wait_than_may(bulk: bool) -> None:
    filled = queue(job("a", 60, bulk=bulk), limits=LIMITS)
    refusal(filled, job("over", 41, bulk=bulk))
    filled.put(job("b", 40, bulk=bulk))
    refusal(filled, job("one more", 1, bulk=bulk))
    assert turns(filled) == [["a"], ["b"]]


@each_priority
def test_a_request_over_the_limit_is_taken_where_none_waits(bulk: bool) -> None:
    assert turns(queue(job("great", 101, bulk=bulk), limits=LIMITS)) == [["great"]]


@each_priority
def test_a_request_over_the_limit_is_refused_where_one_waits(bulk: bool) -> None:
    waiting = queue(job("small", bulk=bulk), limits=LIMITS)
    assert refusal(waiting, job("great", 101, bulk=bulk)).code == "UNAVAILABLE"


def test_behind_a_request_over_the_limit_none_waits() -> None:
    refusal(queue(job("great", 101), limits=LIMITS), job("small"))


def test_a_request_without_tokens_counts_as_a_request() -> None:
    full = queue(*(job(number, tokens=0) for number in range(3)), limits=LIMITS)
    refusal(full, job("fourth", tokens=0))


@each_priority
@pytest.mark.parametrize("waiting", [[1, 1, 1], [100]], ids=["requests", "tokens"])
def test_either_priority_has_the_limits_for_itself(bulk: bool, waiting: list[int]) -> None:
    full = queue(*(job("first", tokens, bulk=bulk) for tokens in waiting), limits=LIMITS)
    refusal(full, job("one more", bulk=bulk))
    for tokens in waiting:
        full.put(job("other", tokens, bulk=not bulk))
    refusal(full, job("one more", bulk=not bulk))


def test_what_is_taken_leaves_room_for_as_many_requests_and_tokens() -> None:
    full = queue(*(job("old", tokens) for tokens in (6, 4, 90)), limits=LIMITS)
    assert [each.work for each in full.take()] == ["old", "old"]
    refusal(full, job("over", 11))
    for tokens in (4, 6):
        full.put(job("new", tokens))
    refusal(full, job("fourth", 0))


def test_what_is_refused_takes_no_room() -> None:
    filled = queue(job("a", 60), limits=LIMITS)
    refusal(filled, job("over", 41))
    filled.put(job("b", 40))
    assert turns(filled) == [["a"], ["b"]]


@pytest.mark.parametrize(("bulk", "named"), [(False, "interactive"), (True, "bulk")])
def test_a_refusal_says_what_waits_and_may_and_what_to_do(bulk: bool, named: str) -> None:
    filled = queue(job("a", 60, bulk=bulk), job("b", 5, bulk=bulk), job("beside", 7, bulk=not bulk), limits=LIMITS)
    refused = refusal(filled, job("over", 41, bulk=bulk))
    assert refused.code == "UNAVAILABLE"
    assert str(refused) == (
        f"the model is busy: 2 {named} requests of 65 tokens wait, of at most 3 and 100; send it again later"
    )


# How long.


@pytest.mark.parametrize(("own", "expected"), [(math.inf, 1060.0), (90.0, 1060.0), (60.0, 1060.0), (2.5, 1002.5)])
def test_a_request_waits_as_long_as_the_queue_allows_or_less_if_it_asks_for_less(
    own: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    settable_clock(monkeypatch).now = 1000.0
    (taken,) = queue(job("a", timeout_s=own), limits=QueueLimits(3, 100, timeout_s=60.0)).take()
    assert taken.expires_at == expected


# Whose turn it is.


@each_priority
def test_the_first_to_come_is_the_first_to_go(bulk: bool) -> None:
    assert turns(queue(*(job(number, TURN, bulk=bulk) for number in range(5)))) == [[0], [1], [2], [3], [4]]


def test_interactive_requests_go_before_bulk_ones_that_came_earlier() -> None:
    assert turns(queue(job("b", bulk=True), job("i"), job("c", bulk=True), job("j"))) == [["i", "j"], ["b", "c"]]


def test_of_eight_turns_under_interactive_load_one_is_bulks() -> None:
    loaded = queue(*(job("bulk", TURN, bulk=True) for _ in range(4)), *(job("query", TURN) for _ in range(40)))
    taken = [each.work for _ in range(24) for each in loaded.take()]
    assert Counter(taken) == {"query": 21, "bulk": 3}
    assert [place for place, work in enumerate(taken) if work == "bulk"] == [7, 15, 23]


def test_bulks_turn_is_not_lost_where_no_bulk_request_waits() -> None:
    assert turns(queue(*(job(number, TURN) for number in range(20)))) == [[number] for number in range(20)]


def test_bulk_has_every_turn_where_no_interactive_request_waits() -> None:
    jobs = [job(number, TURN, bulk=True) for number in range(20)]
    assert turns(queue(*jobs)) == [[number] for number in range(20)]


@each_priority
def test_a_turn_has_as_many_requests_as_their_tokens_fit_the_budget(bulk: bool) -> None:
    jobs = [job(tokens, tokens, bulk=bulk) for tokens in (4, 6, 3, 4, 4, 9, 1)]
    assert turns(queue(*jobs)) == [[4, 6], [3, 4], [4], [9, 1]]


def test_a_turn_has_at_least_one_request_whatever_its_size() -> None:
    assert turns(queue(job("great", 11), job("small", 1))) == [["great"], ["small"]]


def test_no_request_overtakes_a_greater_one_of_its_priority() -> None:
    assert turns(queue(job("a", 6), job("great", 9), job("c", 4))) == [["a"], ["great"], ["c"]]


def test_requests_without_tokens_take_no_room_in_a_turn() -> None:
    assert turns(queue(job("a", TURN), job("empty", 0), job("c", 1))) == [["a", "empty"], ["c"]]


def test_a_turn_is_of_one_priority() -> None:
    assert turns(queue(job("i", 1), job("b", 1, bulk=True))) == [["i"], ["b"]]


# Interactive requests that pass.


def test_interactive_requests_pass_one_turn_at_a_time_and_bulk_ones_stay() -> None:
    waiting = queue(job("b", bulk=True), *(job(number, 5) for number in range(3)))
    assert [each.work for each in waiting.take_interactive()] == [0, 1]
    assert [each.work for each in waiting.take_interactive()] == [2]
    assert waiting.take_interactive() == []
    assert turns(waiting) == [["b"]]


def test_what_has_passed_leaves_room() -> None:
    full = queue(*(job("old", 30) for _ in range(3)), limits=LIMITS)
    full.take_interactive()
    full.put(job("new", 40))
    refusal(full, job("fourth", 0))


def test_those_that_pass_are_no_turn_of_those_that_bulk_has_one_of() -> None:
    loaded = queue(job("bulk", TURN, bulk=True), *(job("query", TURN) for _ in range(40)))
    for _ in range(8):
        loaded.take_interactive()
    assert [loaded.take()[0].work for _ in range(8)] == ["query"] * 7 + ["bulk"]


# What is told of it.


@each_priority
@pytest.mark.parametrize(
    ("tokens", "nearly_full_from"),
    [((0,) * 16, 14), ((12,) * 8, 8), ((87, 1, 12), 2), ((101,), 1)],
    ids=["requests", "tokens", "one and many tokens", "more than may wait"],
)
def test_it_says_of_a_priority_when_only_an_eighth_of_it_is_left(
    tokens: tuple[int, ...], nearly_full_from: int, bulk: bool
) -> None:
    told: list[tuple[bool, bool]] = []
    filled = WorkQueue[Any](QueueLimits(requests=16, tokens=100), TURN, lambda *of: told.append(of))
    for each in tokens[: nearly_full_from - 1]:
        filled.put(job("a", each, bulk=bulk))
    filled.put(job("of the other priority", bulk=not bulk))
    assert told == []
    for each in tokens[nearly_full_from - 1 :]:
        filled.put(job("a", each, bulk=bulk))
    assert told == [(bulk, True)] * (len(tokens) - nearly_full_from + 1)


def test_it_says_so_again_of_each_that_is_refused() -> None:
    told: list[tuple[bool, bool]] = []
    full = WorkQueue[Any](LIMITS, TURN, lambda *of: told.append(of))
    for _ in range(3):
        full.put(job("a"))
    told.clear()
    refusal(full, job("d"))
    assert told == [(False, True)]


def test_it_says_nothing_of_one_that_is_refused_for_its_size_alone() -> None:
    told: list[tuple[bool, bool]] = []
    filled = WorkQueue[Any](LIMITS, TURN, lambda *of: told.append(of))
    filled.put(job("a", 50))
    refusal(filled, job("b", 60))
    assert told == []


def test_it_says_when_some_of_it_is_taken_and_whether_that_is_enough() -> None:
    told: list[tuple[bool, bool]] = []
    full = WorkQueue[Any](QueueLimits(requests=99, tokens=5 * TURN), TURN, lambda *of: told.append(of))
    for _ in range(5):
        full.put(job("a", TURN, bulk=True))
    full.put(job("b"))
    told.clear()
    for _ in range(3):
        full.take()
    assert told == [(False, False), (True, False), (True, False)]
    full.put(job("long", 9 * TURN // 2))
    full.put(job("short", 0))
    told.clear()
    full.take_interactive()
    assert told == [(False, False)]


def test_taking_nothing_says_nothing() -> None:
    told: list[tuple[bool, bool]] = []
    empty = WorkQueue[Any](LIMITS, TURN, lambda *of: told.append(of))
    empty.take_interactive()
    empty.close()
    empty.take()
    assert told == []


def test_it_knows_how_lately_an_interactive_request_came(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = settable_clock(monkeypatch)
    waiting = queue(job("b", bulk=True))
    assert not waiting.had_interactive_within(1e9)
    waiting.put(job("i"))
    waiting.take()
    clock.now += 2
    assert [waiting.had_interactive_within(seconds) for seconds in (1.9, 2.1)] == [False, True]
