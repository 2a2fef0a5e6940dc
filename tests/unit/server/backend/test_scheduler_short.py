# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.backend.scheduler` and `work_queue`: short interactive requests that overtake work of any kind."""

from __future__ import annotations

import pytest

from flagtriton_server.backend.queue import WorkQueue
from flagtriton_server.backend.scheduler import Worker
from tests.support.steps.jobs import TURN, Answers, job, queue
from tests.support.waiting import wait_for


def taken(waiting: WorkQueue[str]) -> list[str]:
    return [each.work for each in waiting.take_short()]


def test_short_requests_are_taken_past_long_ones_in_their_order() -> None:
    answers = Answers()
    waiting = queue(*(job(name, tokens, answers) for name, tokens in [("L", TURN + 1), ("a", 1), ("M", 99), ("b", 2)]))
    assert taken(waiting) == ["a", "b"]
    assert [each.work for each in waiting.take()] == ["L"]
    assert [each.work for each in waiting.take()] == ["M"]


def test_a_turn_of_them_is_taken_at_once() -> None:
    answers = Answers()
    waiting = queue(*(job(name, TURN - 1, answers) for name in "ab"))
    assert [taken(waiting), taken(waiting), taken(waiting)] == [["a"], ["b"], []]
    assert waiting.waiting(bulk=False) == (0, 0)


def test_bulk_requests_are_not_taken() -> None:
    answers = Answers()
    assert taken(queue(job("b", 1, answers, bulk=True))) == []


@pytest.mark.parametrize("bulk", [False, True])
def test_a_short_request_overtakes_one_that_runs_and_others_no_further(bulk: bool) -> None:
    answers, seen = Answers(), []
    waiting = queue(job("L", TURN + 1, answers, bulk=bulk))

    def run(work: list[str]) -> list[str]:
        if work == ["L"]:
            waiting.put(job("a", 1, answers))
            waiting.put(job("M", TURN + 1, answers))
            worker.run_short_now()
        if work == ["a"]:
            waiting.put(job("b", 1, answers))
            worker.run_short_now()  # it passes already
        seen.extend(work)
        return work

    worker: Worker[str] = Worker(waiting, run, lambda _: None)
    worker.start()
    wait_for(lambda: len(seen) == 4, what=lambda: seen)  # a queue that is closed takes no more
    worker.stop()
    assert seen[:2] == ["a", "L"]
    assert sorted(work for work, _ in answers) == ["L", "M", "a", "b"]
