# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.backend.scheduler`: every request is answered once, whatever becomes of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flagtriton.protocol.settings import QueueLimits
from flagtriton_server.backend.queue import QueuedRequest, WorkQueue
from flagtriton_server.backend.scheduler import StepObserver, Worker
from flagtriton_server.errors import RequestError
from tests.support.steps.jobs import TURN, Answers, job, queue, settable_clock

FAILED = "the model failed on this batch: ZeroDivisionError, see its log"
CANCELLED = ("CANCELLED", "the client has cancelled this request")
LATE = ("UNAVAILABLE", "the request has waited too long; send it again later")


class Running:
    """Work that answers each request with itself in capitals, and remembers what ran together.

    Args:
        meanwhile: called by the work of that name, with the worker that runs it.
    """

    def __init__(self, **meanwhile: Callable[[Worker[Any]], object]) -> None:
        self.meanwhile = meanwhile
        self.turns: list[list[str]] = []
        self.log: list[str] = []
        self.worker: Worker[Any]

    def __call__(self, work: list[str]) -> list[str]:
        self.turns.append(work)
        for name in work:
            self.meanwhile.get(name, lambda _: None)(self.worker)
        return [name.upper() for name in work]

    def through(self, waiting: WorkQueue[Any]) -> Running:
        """Let a worker do all that waits, and what comes meanwhile."""
        self.worker = Worker(waiting, self, self.log.append)
        self.worker.start()
        self.worker.stop()
        return self


def errors(answers: Answers) -> dict[str, tuple[str, str]]:
    """Return code and sentence of each answer, none of which is another than a refusal."""
    assert all(isinstance(answer, RequestError) for _, answer in answers)
    return {work: (answer.code, str(answer)) for work, answer in answers}


def fails(_: Worker[Any]) -> None:
    raise ZeroDivisionError


def lost(_: object) -> None:
    raise OSError("the client is gone")


# Answers.


def test_every_request_gets_its_own_answer_once_in_the_order_they_came() -> None:
    answers = Answers()
    Running().through(queue(*(job(name, TURN, answers) for name in "abc")))
    assert answers == [("a", "A"), ("b", "B"), ("c", "C")]


def test_requests_of_one_turn_run_together_and_get_their_own_answers() -> None:
    answers = Answers()
    running = Running().through(queue(*(job(name, 4, answers) for name in "abc")))
    assert running.turns == [["a", "b"], ["c"]]
    assert answers == [("a", "A"), ("b", "B"), ("c", "C")]


def test_a_request_is_answered_while_nothing_else_waits() -> None:
    answered = threading.Event()
    waiting = queue()
    worker: Worker[Any] = Worker(waiting, lambda work: work, print)
    worker.start()
    waiting.put(QueuedRequest("a", 1, lambda _: answered.set()))
    assert answered.wait(timeout=30)
    worker.stop()


def test_an_answer_may_be_a_refusal() -> None:
    refused = RequestError("no such domain")
    answers = Answers()
    made = Worker(queue(job("a", 1, answers)), lambda _: [refused], print)
    made.start()
    made.stop()
    assert answers == [("a", refused)]


def test_stopping_answers_what_waits_of_both_priorities_and_ends_the_thread() -> None:
    before = set(threading.enumerate())
    answers = Answers()
    jobs = [job(f"{place}", TURN, answers, bulk=place % 2 == 0) for place in range(20)]
    Running().through(queue(*jobs))
    assert sorted(work for work, _ in answers) == sorted(f"{place}" for place in range(20))
    assert set(threading.enumerate()) <= before


def test_no_thread_keeps_the_process_from_ending() -> None:
    waiting = queue()
    before = set(threading.enumerate())
    worker: Worker[Any] = Worker(waiting, lambda work: work, print)
    worker.start()
    (thread,) = set(threading.enumerate()) - before
    worker.stop()
    assert thread.daemon


# What goes wrong.


def test_work_that_fails_fails_its_turn_alone() -> None:
    answers = Answers()
    running = Running(b=fails)
    running.through(queue(*(job(name, tokens, answers) for name, tokens in zip("abcd", (TURN, 5, 5, 1), strict=True))))
    assert running.turns == [["a"], ["b", "c"], ["d"]]
    assert [work for work, _ in answers] == ["a", "b", "c", "d"]
    assert errors(Answers(answers[1:3])) == {"b": ("INTERNAL", FAILED), "c": ("INTERNAL", FAILED)}
    assert (answers[0], answers[3]) == (("a", "A"), ("d", "D"))


def test_what_failed_is_in_the_log_with_its_place() -> None:
    running = Running(a=fails).through(queue(job("a")))
    (logged,) = running.log
    assert logged.startswith("Traceback (most recent call last)")
    assert "in fails\n" in logged
    assert "ZeroDivisionError" in logged


def test_an_answer_that_cannot_be_sent_does_not_end_the_thread() -> None:
    answers = Answers()
    running = Running().through(queue(QueuedRequest("a", TURN, lost), job("b", TURN, answers)))
    assert answers == [("b", "B")]
    assert "OSError: the client is gone" in "".join(running.log)


def test_a_refusal_that_cannot_be_sent_does_not_end_the_thread() -> None:
    answers = Answers()
    waiting = queue(QueuedRequest("a", TURN, lost, is_cancelled=lambda: True), job("b", TURN, answers))
    running = Running().through(waiting)
    assert answers == [("b", "B")]
    assert "OSError: the client is gone" in "".join(running.log)


def test_an_answer_that_cannot_be_sent_leaves_the_others_of_its_turn_theirs() -> None:
    answers = Answers()
    Running().through(queue(job("a", 1, answers), QueuedRequest("b", 1, lost), job("c", 1, answers)))
    assert answers == [("a", "A"), ("c", "C")]


def test_a_refusal_that_cannot_be_sent_leaves_the_others_of_its_turn_their_answers() -> None:
    answers = Answers()
    gone = QueuedRequest("b", 1, lost, is_cancelled=lambda: True)
    Running().through(queue(job("a", 1, answers), gone, job("c", 1, answers)))
    assert answers == [("a", "A"), ("c", "C")]


# What is not wanted any more.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return settable_clock(monkeypatch)


def test_a_cancelled_request_is_told_so_and_not_run() -> None:
    answers = Answers()
    running = Running().through(queue(job("a", 1, answers, is_cancelled=lambda: True)))
    assert running.turns == []
    assert errors(answers) == {"a": CANCELLED}


def test_a_request_is_asked_whether_it_is_cancelled_when_its_turn_has_come() -> None:
    gone: list[bool] = []
    answers = Answers()
    running = Running(a=lambda _: gone.append(True))
    running.through(queue(job("a", TURN, answers), job("b", TURN, answers, is_cancelled=lambda: bool(gone))))
    assert running.turns == [["a"]]
    assert errors(Answers(answers[1:])) == {"b": CANCELLED}


@pytest.mark.parametrize(("waited", "late"), [(0.0, False), (1.9, False), (2.0, False), (2.1, True), (99.0, True)])
def test_a_request_that_has_waited_too_long_is_told_so_and_not_run(
    waited: float, late: bool, clock: SimpleNamespace
) -> None:
    answers = Answers()
    waiting = queue(job("a", 1, answers, timeout_s=2.0))
    clock.now += waited
    running = Running().through(waiting)
    if late:
        assert (running.turns, errors(answers)) == ([], {"a": LATE})
    else:
        assert answers == [("a", "A")]


def test_a_request_waits_no_longer_than_the_queue_lets_any(clock: SimpleNamespace) -> None:
    answers = Answers()
    waiting = queue(job("a", 1, answers, timeout_s=99.0), limits=QueueLimits(9, 9, timeout_s=3.0))
    clock.now += 4.0
    assert Running().through(waiting).turns == []
    assert errors(answers) == {"a": LATE}


def test_a_request_whose_turn_came_in_time_may_take_longer(clock: SimpleNamespace) -> None:
    answers = Answers()

    def works_long(_: Worker[Any]) -> None:
        clock.now += 99.0

    Running(a=works_long).through(queue(job("a", 1, answers, timeout_s=2.0)))
    assert answers == [("a", "A")]


def test_a_cancelled_request_that_is_late_too_is_cancelled(clock: SimpleNamespace) -> None:
    answers = Answers()
    waiting = queue(job("a", 1, answers, timeout_s=2.0, is_cancelled=lambda: True))
    clock.now += 4.0
    Running().through(waiting)
    assert errors(answers) == {"a": CANCELLED}


def test_the_others_of_a_turn_run_without_those_that_are_not_wanted(clock: SimpleNamespace) -> None:
    answers = Answers()
    waiting = queue(
        job("a", 1, answers),
        job("gone", 1, answers, is_cancelled=lambda: True),
        job("b", 1, answers),
        job("late", 1, answers, timeout_s=2.0),
        job("c", 1, answers),
    )
    clock.now += 4.0
    assert Running().through(waiting).turns == [["a", "b", "c"]]
    refused = Answers(each for each in answers if each[0] in ("gone", "late"))
    assert errors(refused) == {"gone": CANCELLED, "late": LATE}
    assert sorted(each for each in answers if each not in refused) == [("a", "A"), ("b", "B"), ("c", "C")]


class Noting(StepObserver):
    """Keeps what it is told; may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.told: list[Any] = []

    def on_response(self, job: QueuedRequest[Any], answer: object) -> None:
        if self.error is not None:
            raise self.error
        self.told.append((job.work, answer, job.enqueued_at <= job.dequeued_at <= time.monotonic()))

    def on_batch_done(self, seconds: float) -> None:
        self.told.append(seconds >= 0)


def test_who_watches_is_told_of_every_answer_and_turn() -> None:
    watch, refused = Noting(), RequestError("no")
    made: Worker[Any] = Worker(queue(job("a", TURN), job("b", TURN)), lambda work: [refused], print, watch)
    made.start()
    made.stop()
    assert watch.told == [("a", refused, True), True, ("b", refused, True), True]


def test_one_who_watches_and_fails_keeps_nobody_from_an_answer() -> None:
    answers, log = Answers(), list[str]()
    waiting = queue(job("a", TURN, answers), job("b", TURN, answers))
    made: Worker[Any] = Worker(waiting, lambda work: work, log.append, Noting(OSError("no space")))
    made.start()
    made.stop()
    assert answers == [("a", "a"), ("b", "b")]
    assert len(log) == 2
    assert "no space" in log[0]
