# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.backend.queue` between threads: who waits for what, and that nothing is lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from flagtriton_server.backend.queue import QueuedRequest
from tests.support.steps.jobs import ended, in_thread, job, queue, waits


@pytest.mark.parametrize("bulk", [False, True], ids=["interactive", "bulk"])
def test_taking_waits_for_a_request(bulk: bool) -> None:
    empty = queue()
    thread, returned = in_thread(empty.take)
    assert waits(thread)
    empty.put(job("a", bulk=bulk))
    assert ended(thread)
    assert [each.work for each in returned[0]] == ["a"]


def test_a_closed_queue_gives_what_waits_and_then_nothing() -> None:
    closed = queue(job("b", bulk=True), job("i"))
    closed.close()
    assert [[each.work for each in closed.take()] for _ in range(4)] == [["i"], ["b"], [], []]


def test_closing_ends_the_wait_for_a_request() -> None:
    empty = queue()
    thread, returned = in_thread(empty.take)
    assert waits(thread)
    empty.close()
    assert ended(thread)
    assert returned == [[]]


@pytest.mark.parametrize("jobs", [[], [job("i", 9)], [job("b", 9, bulk=True)], [job("i", 4), job("b", 5, bulk=True)]])
def test_below_a_number_of_tokens_nobody_waits(jobs: list[QueuedRequest[Any]]) -> None:
    queue(*jobs).wait_until_below(10, 60)


@pytest.mark.parametrize(
    "jobs",
    [
        [job("i", 10), job("j", 9)],
        [job("b", 10, bulk=True), job("c", 9, bulk=True)],
        [job("b", 9, bulk=True), job("i", 1)],
    ],
    ids=["interactive", "bulk", "both together"],
)
def test_from_a_number_of_tokens_on_one_waits_until_fewer_are_left(jobs: list[QueuedRequest[Any]]) -> None:
    filled = queue(*jobs)
    thread, _ = in_thread(filled.wait_until_below, 10, 60)
    assert waits(thread)
    filled.take()
    assert ended(thread)


def test_requests_that_pass_end_the_wait_too() -> None:
    filled = queue(job("i", 10))
    thread, _ = in_thread(filled.wait_until_below, 10, 60)
    assert waits(thread)
    filled.take_interactive()
    assert ended(thread)


def test_the_wait_for_room_ends_with_its_time() -> None:
    filled = queue(job("a", 10))
    filled.wait_until_below(10, 0.01)
    assert filled.take()


def test_closing_ends_the_wait_for_room() -> None:
    filled = queue(job("a", 10))
    thread, _ = in_thread(filled.wait_until_below, 10, 60)
    assert waits(thread)
    filled.close()
    assert ended(thread)


def test_requests_of_many_threads_are_each_taken_once() -> None:
    shared = queue()
    names = [[(thread, number) for number in range(100)] for thread in range(4)]
    taker, returned = in_thread(lambda: [each.work for turn in iter(shared.take, []) for each in turn])
    putters = [
        in_thread(lambda own=own: [shared.put(job(each, bulk=each[1] % 2 == 0)) for each in own]) for own in names
    ]
    assert all(ended(thread) for thread, _ in putters)
    shared.close()
    assert ended(taker)
    assert Counter(returned[0]) == Counter(name for own in names for name in own)
    for own in names:
        for kind in (own[::2], own[1::2]):  # each thread's, of either priority, in their order
            assert [each for each in returned[0] if each in set(kind)] == kind
