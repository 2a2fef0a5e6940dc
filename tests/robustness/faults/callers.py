# SPDX-License-Identifier: Apache-2.0
"""Threads that call deployments without end, know every right answer, and count what fails beneath the retries."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton import FlagModel, FlagReranker
from flagtriton.errors import FlagTritonError
from flagtriton.transport.base import Transport
from flagtriton.transport.connect import connect
from tests.robustness.faults.serving import DEMO, RERANKER, TINY

_WORDS = ("fox", "dog", "river", "stone", "quick", "lazy", "brown", "bridge", "night", "paper", "machine", "query")


def texts(count: int, seed: int = 0) -> list[str]:
    """Return distinct texts of 3 to 40 words."""
    rng = random.Random(seed)
    return [f"{number} {' '.join(rng.choices(_WORDS, k=rng.randint(3, 40)))}" for number in range(count)]


@dataclass(frozen=True)
class FailedTry:
    """A request that failed: when it was sent and when it failed, by the monotonic clock, and why."""

    began: float
    ended: float
    reason: str


class CountingTransport:
    """A transport that remembers which of its requests failed, and when; all else is the real one's."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.failures: list[FailedTry] = []
        self.answered = 0

    def infer(self, *arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            reply = self._transport.infer(*arguments, **named)
        except FlagTritonError as error:
            self.failures.append(FailedTry(began, time.monotonic(), str(error)))
            raise
        self.answered += 1
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@dataclass
class Caller:
    """One thread's calls of one deployment.

    Attributes:
        sent: texts that went out in calls.
        answered: those of them that a call returned, each at its own place.
        wrong: those whose answer was not the right one.
        errors: what calls raised.
    """

    name: str
    transport: CountingTransport
    call: Callable[[Sequence[int]], NDArray[np.float32]]
    truth: NDArray[np.float32]
    sent: int = 0
    answered: int = 0
    wrong: int = 0
    errors: list[str] = field(default_factory=list)

    def run(self, stopped: threading.Event, seed: int) -> None:
        rng = random.Random(seed)
        while not stopped.is_set():
            rows = [rng.randrange(len(self.truth)) for _ in range(rng.choice([1, 1, 4, 40]))]
            self.sent += len(rows)
            try:
                answer = self.call(rows)
            except Exception as error:  # every kind of failure is a finding
                self.errors.append(repr(error))
                continue
            self.answered += len(answer)
            differences = np.abs(answer - self.truth[rows]).reshape(len(answer), -1).max(axis=1)
            self.wrong += int((differences > 1e-5).sum())


@contextmanager
def callers(url: str, count: int, **settings: Any) -> Iterator[list[Caller]]:
    """Run so many callers, of three deployments in turn, while the block runs; yield them."""
    corpus, settings = texts(200), {"show_progress": False, **settings}
    makers = [_embedder(DEMO, "mean", corpus), _embedder(TINY, "cls", corpus), _reranker(corpus)]
    truths = [maker(CountingTransport(connect(url)), {})[1](range(len(corpus))) for maker in makers]
    running = []
    for number in range(count):
        transport = CountingTransport(connect(url))
        name, call = makers[number % 3](transport, settings)
        running.append(Caller(name, transport, call, truths[number % 3]))
    stopped = threading.Event()
    threads = [
        threading.Thread(target=caller.run, args=(stopped, seed), daemon=True) for seed, caller in enumerate(running)
    ]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        stopped.set()
        for thread in threads:
            thread.join(330)
        hanging = sum(thread.is_alive() for thread in threads)
        assert not hanging, f"{hanging} callers never came back"


def summary(running: Sequence[Caller]) -> dict[str, Any]:
    """Return what the callers of all deployments saw together."""
    return {
        "sent": sum(caller.sent for caller in running),
        "answered": sum(caller.answered for caller in running),
        "wrong": sum(caller.wrong for caller in running),
        "raised": dict(Counter(error for caller in running for error in caller.errors)),
        "failed_tries": dict(Counter(caller.name for caller in running for _ in caller.transport.failures)),
    }


def _embedder(name: str, pooling_method: str, corpus: Sequence[str]) -> Callable[..., Any]:
    def make(transport: CountingTransport, settings: dict[str, Any]) -> Any:
        model = FlagModel(name, transport=transport, use_fp16=False, pooling_method=pooling_method, **settings)
        return name, lambda rows: np.asarray(model.encode([corpus[row] for row in rows], batch_size=8))

    return make


def _reranker(corpus: Sequence[str]) -> Callable[..., Any]:
    def make(transport: CountingTransport, settings: dict[str, Any]) -> Any:
        model = FlagReranker(RERANKER, transport=transport, use_fp16=False, **settings)
        return RERANKER, lambda rows: np.asarray(model.compute_score([("quick fox", corpus[row]) for row in rows]))

    return make
