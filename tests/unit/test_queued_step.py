# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.queued_step`: from Triton's `execute` to answers that a thread of the step's own sends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from torch import nn

from flagtriton.protocol import TOKEN_COUNT
from flagtriton_server.rejection import RequestError
from flagtriton_server.settings import EncoderSettings, LayeredSettings
from flagtriton_server.work_queue import QueueLimits
from tests.unit.jobs import TURN, ended, in_thread, settable_clock, waits
from tests.unit.triton_stand_in import Request, TritonError, imported_steps

MOST_REQUESTS, MOST_TOKENS = 4, 60


@pytest.fixture
def queued_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with imported_steps(monkeypatch, "queued_step") as modules:
        yield modules.queued_step


def settings(**more: Any) -> EncoderSettings:
    limits = {"queue_requests": MOST_REQUESTS, "queue_tokens": MOST_TOKENS, **more}
    return EncoderSettings("a/b", 64, token_budget=TURN, **limits)


@dataclass(frozen=True)
class Work:
    """What is read of a request."""

    name: str
    tokens: int


@dataclass
class Step:
    """A step whose work waits at a gate, in turns that are let through one by one."""

    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    began: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    turns: list[list[str]] = field(default_factory=list)

    def read(self, request: Request) -> Work:
        work = Work(*(request.tensors[name].item() for name in ("name", "tokens")))
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


def busy(queued_step: Any, step: Step, instances: int = 1, **more: Any) -> Any:
    """Return a queued step whose work on a first request has begun, and does not end before it is let through."""
    queued = queued_step.QueuedStep(settings(**more), instances, step.read, step.run)
    queued.start(lambda: None)
    queued.execute([request("first", bulk=True)])
    assert step.began.acquire(timeout=30)
    return queued


def bulk(name: str, tokens: int = 1, **more: Any) -> Request:
    return request(name, tokens, bulk=True, **more)


@pytest.mark.parametrize("made", [EncoderSettings("a/b", 64, 4096), LayeredSettings("a/b", "c", 64, 4096)])
def test_what_may_wait_follows_from_the_token_budget_unless_it_is_said(queued_step: Any, made: Any) -> None:
    assert queued_step.queue_limits(made) == QueueLimits(128, 131_072, 60.0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"queue_requests": 7}, QueueLimits(7, 131_072, 60.0)),
        ({"queue_tokens": 7}, QueueLimits(128, 7, 60.0)),
        ({"queue_timeout_s": 0.5}, QueueLimits(128, 131_072, 0.5)),
        ({"queue_requests": 1, "queue_tokens": 2, "queue_timeout_s": 3.0}, QueueLimits(1, 2, 3.0)),
    ],
)
def test_what_may_wait_is_what_is_said(queued_step: Any, said: dict[str, Any], expected: QueueLimits) -> None:
    assert queued_step.queue_limits(EncoderSettings("a/b", 64, 4096, **said)) == expected
    assert queued_step.queue_limits(LayeredSettings("a/b", "c", 64, 4096, **said)) == expected


def test_execute_returns_before_bulk_work_is_done_and_refuses_bad_requests_at_once(
    queued_step: Any, step: Step
) -> None:
    queued = queued_step.QueuedStep(settings(), 1, step.read, step.run)
    queued.start(lambda: None)
    good, bad, also_good = bulk("a", 3), bulk("b", -1), bulk("c", 4)
    later, refused, also_later = queued.execute([good, bad, also_good])
    assert (later, also_later) == (None, None)
    assert refused.error.args == ("fewer than no tokens", TritonError.INVALID_ARG)
    step.open()
    assert (tokens_of(good), tokens_of(also_good)) == (3, 4)
    queued.finalize()


def test_execute_returns_the_answers_to_requests_that_are_not_bulk(queued_step: Any, step: Step) -> None:
    queued = queued_step.QueuedStep(settings(), 1, step.read, step.run)
    queued.start(lambda: None)
    thread, returned = in_thread(queued.execute, [request("a", 3), bulk("b", TURN), request("c", 4)])
    assert waits(thread)
    step.open(1)
    assert ended(thread)
    ((first, later, last),) = returned
    assert [each.tensors[TOKEN_COUNT.name].item() for each in (first, last)] == [3, 4]
    assert later is None
    step.open()
    queued.finalize()


def test_what_comes_while_bulk_work_runs_is_taken_though_its_answer_is_waited_for(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step)
    queued.execute([bulk("later", TURN)])
    thread, returned = in_thread(queued.execute, [request("a", 3)])
    assert waits(thread)
    step.open(2)
    assert ended(thread)
    assert returned[0][0].tensors[TOKEN_COUNT.name].item() == 3
    step.open()
    queued.finalize()
    assert step.turns == [["first"], ["a"], ["later"]]


def test_requests_of_one_or_several_calls_share_turns_of_the_token_budget(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step)
    queued.execute([bulk("a", 6), bulk("b", 4)])
    queued.execute([bulk("c", 5)])
    queued.execute([bulk("d", 5)])
    step.open()
    queued.finalize()
    assert step.turns == [["first"], ["a", "b"], ["c", "d"]]


def test_bulk_requests_go_behind_interactive_ones_that_come_later(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step)
    queued.execute([bulk("a", TURN)])
    thread, _ = in_thread(queued.execute, [request("b", TURN), request("c", TURN, bulk=False)])
    assert waits(thread)
    step.open()
    queued.finalize()
    assert step.turns == [["first"], ["b"], ["c"], ["a"]]


@pytest.mark.parametrize("tokens", [(1,) * (MOST_REQUESTS + 1), (20, 20, 20, 1)], ids=["requests", "tokens"])
def test_a_request_that_finds_no_room_is_refused_and_the_others_are_answered(
    queued_step: Any, step: Step, tokens: tuple[int, ...]
) -> None:
    queued = busy(queued_step, step)
    requests = [bulk(f"{place}", of) for place, of in enumerate(tokens)]
    *later, refused = queued.execute(requests)
    assert later == [None] * len(later)
    message, code = refused.error.args
    assert code == TritonError.UNAVAILABLE
    assert message.endswith(f"wait, of at most {MOST_REQUESTS} and {MOST_TOKENS}; send it again later")
    step.open()
    assert [tokens_of(each) for each in requests[:-1]] == list(tokens[:-1])
    queued.finalize()


def test_a_request_that_is_cancelled_while_it_waits_is_not_run(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step)
    gone = bulk("gone")
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
    queued = busy(queued_step, step, queue_timeout_s=of_the_queue_s)
    late = bulk("late", timeout_us=own_us)
    queued.execute([late])
    clock.now += 2.1
    step.open()
    assert error_of(late) == ("the request has waited too long; send it again later", TritonError.UNAVAILABLE)
    queued.finalize()
    assert step.turns == [["first"]]


def test_finalizing_answers_all_that_waits_first(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step)
    requests = [bulk(f"{place}", TURN) for place in range(MOST_REQUESTS)]
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
    monkeypatch.setattr(queued_step.triton_io.pb_utils.Logger, "log_error", lines.append)

    def run(_: list[Work]) -> list[Any]:
        raise MemoryError

    queued = queued_step.QueuedStep(settings(), 1, step.read, run)
    queued.start(lambda: None)
    (refused,) = queued.execute([request("a")])
    assert refused.error.args == ("the model failed on this batch: MemoryError, see its log", TritonError.INTERNAL)
    queued.finalize()
    (line,) = lines
    assert line.startswith("[flagtriton] Traceback")


# Several instances.


def test_one_of_several_instances_takes_no_more_while_two_turns_wait(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step, instances=2)
    queued.execute([bulk("a", TURN), bulk("b", TURN - 1)])  # fewer tokens than two turns have
    thread, _ = in_thread(queued.execute, [bulk("c", 1), bulk("d", TURN)])
    assert waits(thread)
    step.open(1)  # a's turn begins, which leaves as many tokens as two turns have: b's, c's and d's
    assert step.began.acquire(timeout=30)
    assert waits(thread)
    step.open(1)
    assert ended(thread)
    step.open()
    queued.finalize()


def test_a_single_instance_takes_all_there_is(queued_step: Any, step: Step) -> None:
    queued = busy(queued_step, step, instances=1)
    queued.execute([bulk(f"{place}", 15) for place in range(MOST_REQUESTS)])
    assert step.turns == [["first"]]  # it has not waited for any of them
    step.open()
    queued.finalize()


# Layers.


class Network(nn.Module):
    """Three layers, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Noting("head") for _ in range(2)])
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([Noting(f"layer{place}") for place in range(3)])

    def forward(self, seen: list[str]) -> None:
        for part in (*self.encoder.layers, *self.heads):
            part(seen)


class Noting(nn.Module):
    """A layer, with a part of its own, that adds its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.within = nn.Identity()

    def forward(self, seen: list[str]) -> None:
        self.within(seen).append(self.name)


def test_others_may_pass_before_every_layer_and_nowhere_else(
    queued_step: Any, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(queued_step.Worker, "let_interactive_pass", lambda _: seen.append("pause"))
    queued = queued_step.QueuedStep(settings(), 1, step.read, step.run)
    queued.start(lambda: None)
    network = Network()
    queued.pause_between_layers(network)
    network(seen)
    assert seen == ["pause", "layer0", "pause", "layer1", "pause", "layer2", "head", "head"]
    queued.finalize()


def test_a_network_without_layers_has_no_pauses(queued_step: Any, step: Step) -> None:
    queued = queued_step.QueuedStep(settings(), 1, step.read, step.run)
    queued.start(lambda: None)
    queued.pause_between_layers(nn.Sequential(nn.Linear(1, 1)))
    queued.finalize()
