# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.steps.base`: from Triton's `execute` to answers that a thread of the step's own sends."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from flagtriton.protocol.settings import QueueLimits
from flagtriton.protocol.tensors import TOKEN_COUNT
from flagtriton_server.errors import RequestError
from tests.support.steps.fake_backend import Request, TritonError, imported_steps
from tests.support.steps.jobs import TURN, ended, in_thread, settable_clock, waits

MOST_REQUESTS, MOST_TOKENS = 4, 60


@pytest.fixture
def queued_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with imported_steps(monkeypatch, "base", "backend.metrics") as modules:
        yield modules.base


@dataclass(frozen=True)
class Work:
    """What is read of a request."""

    name: str
    tokens: int
    rows: int = 1


@dataclass
class Step:
    """A step whose work waits at a gate, in turns that are let through one by one."""

    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    began: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    turns: list[list[str]] = field(default_factory=list)

    def read(self, request: Any) -> Work:
        work = Work(*(request.pb_request.tensors[name].item() for name in ("name", "tokens")))
        if work.tokens < 0:
            raise RequestError("fewer than no tokens")
        return work

    def run(self, work: list[Work]) -> list[dict[Any, Any]]:
        self.turns.append([item.name for item in work])
        self.began.release()
        assert self.gate.acquire(timeout=30)
        return [{TOKEN_COUNT: np.array([[item.tokens]], dtype=np.int32)} for item in work]

    def open(self, turns: int = 99) -> None:
        self.gate.release(turns)


@pytest.fixture
def step() -> Iterator[Step]:
    made = Step()
    yield made
    made.open()


def request(name: str, tokens: int = 1, *, timeout_us: int = 0, **options: Any) -> Request:
    tensors = {"name": np.array(name), "tokens": np.array(tokens)}
    return Request(tensors, json.dumps(options), timeout_us=timeout_us)


def tokens_of(asked: Request) -> int:
    response = asked.sender.response()
    assert response.error is None
    return response.tensors[TOKEN_COUNT.name].item()


def error_of(asked: Request) -> tuple[str, int]:
    message, code = asked.sender.response().error.args
    return message, code


def started(
    queued_step: Any, step: Step, run: Any = None, *, instances: int = 1, timeout_s: float = 60.0, **told: Any
) -> Any:
    limits = QueueLimits(MOST_REQUESTS, MOST_TOKENS, timeout_s)
    watch = queued_step.StepMetrics({"model_name": "tiny_encoder", "model_version": "1"}, encodes=True)
    queued = queued_step.QueuedStep(limits, TURN, instances, step.read, run or step.run, watch=watch, **told)
    queued.start()
    return queued


def busy(queued_step: Any, step: Step, **more: Any) -> Any:
    """Return a queued step whose work on a first request has begun, and does not end before it is let through."""
    queued = started(queued_step, step, **more)
    queued.execute([request("first")])
    assert step.began.acquire(timeout=30)
    return queued


def test_execute_returns_before_the_work_is_done_and_refuses_bad_requests_at_once(queued_step: Any, step: Step) -> None:
    queued = started(queued_step, step)
    good, bad, also_good = request("a", 3), request("b", -1), request("c", 4)
    later, refused, also_later = queued.execute([good, bad, also_good])
    assert (later, also_later) == (None, None)
    assert refused.error.args == ("fewer than no tokens", TritonError.INVALID_ARG)
    step.open()
    assert (tokens_of(good), tokens_of(also_good)) == (3, 4)
    queued.finalize()


def test_requests_of_one_or_several_calls_share_turns_of_the_token_budget(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step)
    queued.execute([request("a", 6), request("b", 4)])
    queued.execute([request("c", 5)])
    queued.execute([request("d", 5)])
    step.open()
    queued.finalize()
    assert step.turns == [["first"], ["a", "b"], ["c", "d"]]


def test_bulk_requests_go_behind_interactive_ones_that_come_later(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step)
    queued.execute([request("a", TURN, bulk=True), request("b", TURN)])
    queued.execute([request("c", TURN, bulk=False)])
    step.open()
    queued.finalize()
    assert step.turns == [["first"], ["b"], ["c"], ["a"]]


def is_long(asked: Any) -> bool:
    return str(asked.pb_request.tensors["name"].item()).startswith("long")


@pytest.fixture
def slow_reading(step: Step, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the reading of long requests wait until this is set."""
    may_read, read = threading.Event(), step.read

    def read_slowly(asked: Any) -> Work:
        assert not is_long(asked) or may_read.wait(30)
        return read(asked)

    monkeypatch.setattr(step, "read", read_slowly)
    return may_read


def test_a_request_is_answered_while_a_long_one_is_read(
    queued_step: Any, step: Step, slow_reading: threading.Event
) -> None:
    queued = started(queued_step, step, is_long=is_long)
    long, short = request("long", 3), request("short", 4)
    assert queued.execute([long, short]) == [None, None]
    step.open()
    assert tokens_of(short) == 4
    slow_reading.set()
    assert tokens_of(long) == 3
    queued.finalize()


def test_a_step_ends_once_what_it_reads_is_answered(
    queued_step: Any, step: Step, slow_reading: threading.Event
) -> None:
    queued = started(queued_step, step, is_long=is_long)
    long = request("long", 3)
    queued.execute([long])
    ending, _ = in_thread(queued.finalize)
    slow_reading.set()
    step.open()
    assert tokens_of(long) == 3
    assert ended(ending)


def test_a_long_request_is_refused_as_a_short_one_is(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step, is_long=is_long)
    bad, too_many = request("long", -1), request("long", MOST_TOKENS + 1)
    wrong = Request({"name": np.array("long")})
    waiting = request("long", 1)
    assert queued.execute([bad, wrong, waiting, too_many]) == [None] * 4
    assert error_of(bad) == ("fewer than no tokens", TritonError.INVALID_ARG)
    assert error_of(wrong) == ("the request could not be read: KeyError, see the log", TritonError.INTERNAL)
    assert error_of(too_many)[1] == TritonError.UNAVAILABLE
    (unreadable,) = queued.execute([Request(waiting.tensors, "{")])
    assert unreadable.error.args[1] == TritonError.INVALID_ARG
    step.open()
    assert tokens_of(waiting) == 1
    queued.finalize()


@pytest.mark.parametrize("tokens", [(1,) * (MOST_REQUESTS + 1), (20, 20, 20, 1)], ids=["requests", "tokens"])
def test_a_request_that_finds_no_room_is_refused_and_the_others_are_answered(
    queued_step: Any, step: Step, tokens: tuple[int, ...]
) -> None:
    queued = busy(queued_step, step)
    requests = [request(f"{place}", of) for place, of in enumerate(tokens)]
    assert queued.execute(requests) == [None] * len(tokens)
    message, code = error_of(requests[-1])
    assert code == TritonError.UNAVAILABLE
    assert message.endswith(f"wait, of at most {MOST_REQUESTS} and {MOST_TOKENS}; send it again later")
    step.open()
    assert [tokens_of(each) for each in requests[:-1]] == list(tokens[:-1])
    queued.finalize()


def test_a_request_that_is_cancelled_while_it_waits_is_not_run(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step)
    gone = request("gone")
    assert queued.execute([gone]) == [None]
    gone.cancelled = True
    step.open()
    assert error_of(gone) == ("the client has cancelled this request", TritonError.CANCELLED)
    queued.finalize()
    assert step.turns == [["first"]]


@pytest.mark.parametrize(
    ("own_us", "of_the_queue_s"), [(2_000_000, 60.0), (0, 2.0)], ids=["its client lets it", "the queue lets any"]
)
def test_a_request_that_waits_longer_than_may_be_is_not_run(
    queued_step: Any, step: Step, own_us: int, of_the_queue_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = settable_clock(monkeypatch)
    queued = busy(queued_step, step, timeout_s=of_the_queue_s)
    late = request("late", timeout_us=own_us)
    queued.execute([late])
    clock.now += 2.1
    step.open()
    assert error_of(late) == ("the request has waited too long; send it again later", TritonError.UNAVAILABLE)
    queued.finalize()
    assert step.turns == [["first"]]


def test_finalizing_answers_all_that_waits_first(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step)
    requests = [request(f"{place}", TURN, bulk=place % 2 == 0) for place in range(6)]
    queued.execute(requests)
    thread, _ = in_thread(queued.finalize)
    assert waits(thread)
    step.open()
    assert ended(thread)
    assert {tokens_of(each) for each in requests} == {TURN}


def test_work_that_fails_is_an_internal_error_and_in_the_log(
    queued_step: Any, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(sys.modules["triton_python_backend_utils"].Logger, "log_error", lines.append)

    def run(_: list[Work]) -> list[Any]:
        raise MemoryError

    queued = started(queued_step, step, run)
    asked = request("a")
    queued.execute([asked])
    assert error_of(asked) == ("the model failed on this batch: MemoryError, see its log", TritonError.INTERNAL)
    queued.finalize()
    (line,) = lines
    assert line.startswith("[flagtriton] Traceback")


# Several instances.


def test_one_of_several_instances_takes_no_more_for_a_moment_while_two_turns_wait(
    queued_step: Any, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_step, "_PAUSE_S", 30)
    queued = busy(queued_step, step, instances=2)
    queued.execute([request("a", TURN), request("b", TURN - 1)])  # fewer tokens than two turns have
    thread, _ = in_thread(queued.execute, [request("c", 1), request("d", TURN, bulk=True)])
    assert waits(thread)
    step.open(1)  # a's turn begins, which leaves as many tokens as two turns have: b's, c's and d's
    assert step.began.acquire(timeout=30)
    assert waits(thread)
    step.open(1)
    assert ended(thread)
    step.open()
    queued.finalize()


def test_one_of_several_instances_takes_more_after_all_where_no_other_did(
    queued_step: Any, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_step, "_PAUSE_S", 0.01)
    queued = busy(queued_step, step, instances=2)
    requests = [request(f"{place}", TURN) for place in range(MOST_REQUESTS + 1)]
    for each in requests:
        assert queued.execute([each]) == [None]
    assert step.turns == [["first"]]
    assert error_of(requests[-1])[1] == TritonError.UNAVAILABLE  # what is no longer Triton's has a bound
    step.open()
    queued.finalize()


def test_a_single_instance_takes_all_there_is(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step, instances=1)
    queued.execute([request(f"{place}", 15) for place in range(MOST_REQUESTS)])
    assert step.turns == [["first"]]  # it has not waited for any of them
    step.open()
    queued.finalize()


# Signs.


def test_a_request_that_has_no_chance_is_refused_and_not_queued(queued_step: Any, step: Step) -> None:
    queued = started(queued_step, step, admits=lambda bulk: bulk)
    hopeless, other = request("a"), request("b", 2, bulk=True)
    assert queued.execute([hopeless, other]) == [None, None]
    step.open()
    said = "the model is busy: its queue is full; send it again later"
    assert error_of(hopeless) == (said, TritonError.UNAVAILABLE)
    assert tokens_of(other) == 2
    queued.finalize()
    assert step.turns == [["b"]]


def test_it_is_told_when_there_is_no_room_and_when_there_is_again(queued_step: Any, step: Step) -> None:
    told: list[tuple[bool, bool]] = []
    queued = busy(queued_step, step, tell=lambda *of: told.append(of))
    told.clear()
    queued.execute([request(f"{place}", TURN) for place in range(MOST_REQUESTS - 1)])
    assert told == []
    queued.execute([request("the last", TURN)])
    assert told == [(False, True)]
    step.open()
    queued.finalize()
    assert told[1:] == [(False, False)] * MOST_REQUESTS
