# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.backend.scheduler`: interactive requests that overtake bulk work while it runs."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from flagtriton_server.backend.queue import QueuedRequest, WorkQueue
from flagtriton_server.backend.scheduler import Worker
from flagtriton_server.errors import RequestError
from tests.support.steps.jobs import TURN, Answers, job, queue

END = "end"
"""A request behind all others."""


class Layers:
    """Work of three layers, before each of which others may pass.

    Args:
        waiting: where requests come from.
        arriving: what comes while a request is before one of its layers, by the request's name and the layer.
        failing: names of requests whose work fails in the end.
    """

    def __init__(
        self,
        waiting: WorkQueue[Any],
        arriving: dict[tuple[str, int], list[QueuedRequest[Any]]] | None = None,
        failing: tuple[str, ...] = (),
    ) -> None:
        self.waiting, self.arriving, self.failing = waiting, arriving or {}, failing
        self.seen: list[str] = []
        self.log: list[str] = []
        self.worker: Worker[Any] = Worker(waiting, self.run, self.log.append)

    def run(self, work: list[str]) -> list[str]:
        if work == [END]:
            return work
        names = "+".join(work)
        for layer in range(3):
            for each in self.arriving.get((names, layer), []):
                self.waiting.put(each)
            self.worker.run_interactive_now()
            self.seen.append(f"{names}{layer}")
        if names in self.failing:
            raise ZeroDivisionError
        return [name.upper() for name in work]

    def done(self) -> list[str]:
        """Return the layers in the order they were computed, once all requests are answered."""
        ended = threading.Event()  # behind all others: a queue that is closed before would refuse what arrives
        self.waiting.put(QueuedRequest(END, TURN, lambda _: ended.set(), bulk=True))
        self.worker.start()
        assert ended.wait(timeout=30)
        self.worker.stop()
        return self.seen


def bulk(name: str, answers: Answers, tokens: int = 1) -> QueuedRequest[Any]:
    return job(name, tokens, answers, bulk=True)


def lost(_: object) -> None:
    raise OSError("the client is gone")


def test_an_interactive_request_passes_before_the_next_layer_of_bulk_work() -> None:
    answers = Answers()
    arriving = {("b", 1): [job("i", 1, answers)]}
    assert Layers(queue(bulk("b", answers)), arriving).done() == ["b0", "i0", "i1", "i2", "b1", "b2"]
    assert answers == [("i", "I"), ("b", "B")]


def test_interactive_requests_pass_before_every_layer() -> None:
    answers = Answers()
    arriving = {("b", layer): [job(f"i{layer}.", 1, answers)] for layer in range(3)}
    seen = Layers(queue(bulk("b", answers)), arriving).done()
    assert [each for each in seen if each.startswith("b")] == ["b0", "b1", "b2"]
    assert [seen.index(f"b{layer}") for layer in range(3)] == [3, 7, 11]
    assert [work for work, _ in answers] == ["i0.", "i1.", "i2.", "b"]


def test_one_turn_passes_at_each_layer() -> None:
    answers = Answers()
    arriving = {("b", 0): [job(name, 5, answers) for name in "vwxyz"]}
    seen = Layers(queue(bulk("b", answers)), arriving).done()
    assert [each for each in seen if each[-1] == "0"] == ["v+w0", "b0", "x+y0", "z0"]
    assert [seen.index(each) for each in ("v+w2", "b0", "x+y2", "b1", "z2", "b2")] == [2, 3, 6, 7, 10, 11]
    assert [work for work, _ in answers] == [*"vwxyz", "b"]


def test_no_request_passes_one_that_passes() -> None:
    answers = Answers()
    arriving = {("b", 1): [job("i", 1, answers)], ("i", 1): [job("j", 1, answers)]}
    assert Layers(queue(bulk("b", answers)), arriving).done() == [
        "b0",
        *["i0", "i1", "i2"],
        "b1",
        *["j0", "j1", "j2"],
        "b2",
    ]


def test_no_interactive_request_passes_another() -> None:
    answers = Answers()
    arriving = {("i", 1): [job("j", 1, answers)]}
    assert Layers(queue(job("i", 1, answers)), arriving).done() == ["i0", "i1", "i2", "j0", "j1", "j2"]


def test_no_interactive_request_passes_another_that_follows_bulk_work() -> None:
    answers = Answers()
    arriving = {("b", 2): [job("i", TURN, answers), job("j", TURN, answers)], ("j", 1): [job("k", 1, answers)]}
    seen = Layers(queue(bulk("b", answers)), arriving).done()
    assert seen == [*["b0", "b1"], *["i0", "i1", "i2"], "b2", *["j0", "j1", "j2"], *["k0", "k1", "k2"]]


def test_no_bulk_request_passes() -> None:
    answers = Answers()
    arriving = {("b", 1): [bulk("c", answers)]}
    assert Layers(queue(bulk("b", answers)), arriving).done() == ["b0", "b1", "b2", "c0", "c1", "c2"]


def test_bulk_work_of_every_turn_lets_others_pass() -> None:
    answers = Answers()
    arriving = {(name, 1): [job(f"i{name}", 1, answers)] for name in "bc"}
    Layers(queue(bulk("b", answers, TURN), bulk("c", answers, TURN)), arriving).done()
    assert [work for work, _ in answers] == ["ib", "b", "ic", "c"]


def test_where_nothing_runs_nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers()
    waiting = queue(bulk("b", answers))
    layers = Layers(waiting)
    asked: list[str] = []
    monkeypatch.setattr(waiting, "take_interactive", lambda: asked.append("asked") or [])
    layers.worker.run_interactive_now()
    assert asked == []
    layers.done()
    assert asked == ["asked"] * 3
    layers.worker.run_interactive_now()
    assert asked == ["asked"] * 3


def test_what_passes_and_is_not_wanted_is_told_so_and_not_run() -> None:
    answers = Answers()
    arriving = {("b", 1): [job("i", 1, answers, is_cancelled=lambda: True)]}
    assert Layers(queue(bulk("b", answers)), arriving).done() == ["b0", "b1", "b2"]
    (work, refusal), after = answers
    assert (work, refusal.code, after) == ("i", "CANCELLED", ("b", "B"))


def test_what_passes_and_fails_fails_alone_and_others_pass_behind_it() -> None:
    answers = Answers()
    arriving = {("b", 1): [job("i", 1, answers)], ("b", 2): [job("j", 1, answers)]}
    layers = Layers(queue(bulk("b", answers)), arriving, failing=("i",))
    assert layers.done() == ["b0", *["i0", "i1", "i2"], "b1", *["j0", "j1", "j2"], "b2"]
    (work, refusal), *after = answers
    assert (work, refusal.code, after) == ("i", "INTERNAL", [("j", "J"), ("b", "B")])
    assert len(layers.log) == 1


def test_bulk_work_that_fails_leaves_those_that_passed_their_answers() -> None:
    answers = Answers()
    layers = Layers(queue(bulk("b", answers)), {("b", 1): [job("i", 1, answers)]}, failing=("b",))
    layers.done()
    (_, answer), (work, refusal) = answers
    assert (answer, work) == ("I", "b")
    assert isinstance(refusal, RequestError)
    assert refusal.code == "INTERNAL"


def test_one_that_passes_and_whose_answer_cannot_be_sent_leaves_bulk_work_its_own() -> None:
    answers = Answers()
    layers = Layers(queue(bulk("b", answers)), {("b", 1): [QueuedRequest("i", 1, lost)]})
    assert layers.done() == ["b0", "i0", "i1", "i2", "b1", "b2"]
    assert answers == [("b", "B")]
    assert "OSError: the client is gone" in "".join(layers.log)
