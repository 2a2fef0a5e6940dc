# SPDX-License-Identifier: Apache-2.0
"""`backend.scheduler` and the steps that have one: what its thread does before all requests, and holds after."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flagtriton.protocol.settings import EncoderSettings, LayerwiseSettings, QueueLimits
from flagtriton_server.backend.queue import QueuedRequest
from flagtriton_server.backend.scheduler import Worker
from tests.support.steps.fake_backend import imported_steps, started
from tests.support.steps.jobs import Answers, ended, in_thread, job, queue, waits


def raised_by(function: Any, *arguments: Any) -> BaseException | None:
    """Return what a function raises, be it what ends a process."""
    try:
        function(*arguments)
    except BaseException as error:
        return error
    return None


def fails_with(error: BaseException) -> Any:
    def fails() -> None:
        raise error

    return fails


def test_what_comes_first_is_done_by_the_thread_that_runs_and_before_what_waits() -> None:
    done: list[tuple[str, int]] = []
    answers = Answers()

    def note(name: str) -> None:
        done.append((name, threading.get_ident()))

    def run(work: list[str]) -> list[str]:
        note(work[0])
        return work

    made: Worker[Any] = Worker(queue(job("a", 1, answers)), run, print)
    made.start(lambda: note("first"))
    made.stop()
    assert [name for name, _ in done] == ["first", "a"]
    (thread,) = {thread for _, thread in done}
    assert thread != threading.get_ident()
    assert answers == [("a", "a")]


def test_starting_waits_until_what_comes_first_is_done() -> None:
    ready = threading.Event()
    made: Worker[Any] = Worker(queue(), lambda work: work, print)
    thread, _ = in_thread(made.start, lambda: ready.wait(timeout=30))
    assert waits(thread)
    ready.set()
    assert ended(thread)
    made.stop()


@pytest.mark.parametrize(
    "error", [OSError("no such file"), MemoryError(), SystemExit(3), KeyboardInterrupt()], ids=repr
)
def test_what_fails_first_is_raised_by_start_and_nothing_is_run(error: BaseException) -> None:
    answers = Answers()
    made: Worker[Any] = Worker(queue(job("a", 1, answers)), lambda work: work, print)
    before = set(threading.enumerate())
    thread, raised = in_thread(raised_by, made.start, fails_with(error))
    assert ended(thread)
    assert raised == [error]
    made.stop()
    assert answers == []
    assert set(threading.enumerate()) <= before


class Tensors:
    """What a request holds, of which there may be weak references."""


@pytest.mark.parametrize("bulk", [False, True], ids=["interactive", "bulk"])
@pytest.mark.parametrize("failing", [False, True], ids=["answered", "failed"])
def test_a_worker_that_waits_holds_no_request(bulk: bool, failing: bool) -> None:
    answered = threading.Event()

    def run(work: list[Tensors]) -> list[int]:
        if failing:
            raise ZeroDivisionError
        return [0] * len(work)

    waiting = queue()
    made: Worker[Any] = Worker(waiting, run, lambda _: None)
    made.start()
    tensors = Tensors()
    held = weakref.ref(tensors)
    waiting.put(QueuedRequest(tensors, 1, lambda _: answered.set(), bulk=bulk))
    del tensors
    assert answered.wait(timeout=30)
    until = time.monotonic() + 1
    while held() is not None and time.monotonic() < until:
        time.sleep(0.001)
    assert held() is None
    made.stop()


# The steps.


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(monkeypatch, "base", "backend.metrics", "encoder", "layerwise_encoder") as modules:
        yield modules


def test_a_queued_step_loads_in_the_thread_that_runs(steps: SimpleNamespace) -> None:
    threads: list[int] = []
    watch = steps.metrics.StepMetrics({"model_name": "tiny_step", "model_version": "1"}, encodes=False)
    queued = steps.base.QueuedStep(QueueLimits(4, 4), 4, 1, lambda _: None, lambda work: work, watch=watch)
    worker = queued._worker
    queued.start(lambda: threads.append(threading.get_ident()))
    assert threads == [worker._thread.ident]
    queued.finalize()


STEPS = {
    "encoder": ("load_encoder", EncoderSettings("a/b", 64, 64)),
    "layerwise_encoder": ("load_decoder", LayerwiseSettings("a/b", "decoder-only-layerwise", 64, 64)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_model_is_loaded_beside_the_thread_that_triton_calls_and_what_that_raises_is_raised(
    name: str, steps: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, settings = STEPS[name]
    module, threads = getattr(steps, name), []
    before = set(threading.enumerate())

    def loads(_: object, *devices: torch.device) -> None:
        threads.append(threading.current_thread())
        raise OSError(f"no checkpoint for {devices[0]}")

    monkeypatch.setattr(module, load, loads)
    with pytest.raises(OSError, match="no checkpoint for cpu"):
        started(module, settings)
    assert threads != [threading.current_thread()]
    assert ended(threads[0])
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("name", STEPS)
def test_a_checkpoint_that_is_not_there_is_said_to_triton(name: str, steps: SimpleNamespace, tmp_path: Path) -> None:
    _, settings = STEPS[name]
    missing = {**vars(settings), "checkpoint": str(tmp_path / "gone")}
    with pytest.raises((OSError, ValueError), match="gone"):
        started(getattr(steps, name), type(settings)(**missing))
