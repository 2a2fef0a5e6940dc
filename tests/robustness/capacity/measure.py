# SPDX-License-Identifier: Apache-2.0
"""What real servers do under callers that wait for their answers, and under requests that come when they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flagtriton import FlagModel
from flagtriton_tools.observe.scrape import scrape
from tests.robustness.capacity.servers import NAME
from tests.robustness.faults.serving import Serving

__all__ = ["Observed", "at_moments", "counters", "latencies_alone", "moments", "under_callers"]

_THREADS = 64


@dataclass(frozen=True)
class Observed:
    """What was seen.

    Attributes:
        requests_per_s: answered.
        p50_s: of them.
        p95_s: likewise.
        began: when, by the monotonic clock; likewise `ended`.
    """

    requests_per_s: float
    p50_s: float
    p95_s: float
    began: float
    ended: float

    @classmethod
    def of(cls, latencies_s: Sequence[float], began: float, ended: float) -> Observed:
        """Return that of some requests' latencies."""
        percentiles = (float(np.percentile(latencies_s, of)) for of in (50, 95))
        return cls(len(latencies_s) / (ended - began), *percentiles, began, ended)


def latencies_alone(servers: Sequence[Serving], requests: Sequence[list[str]]) -> list[float]:
    """Return the latencies of requests, one after another, seconds."""
    with _model(servers) as model:
        model.encode(requests[0])
        return [_timed(model, request) for request in requests]


def under_callers(
    servers: Sequence[Serving], requests: Sequence[list[str]], callers: int, seconds: float, warm_up_s: float
) -> Observed:
    """Return what callers see, each of which sends its next request once it has its answer."""
    over, latencies, lock = threading.Event(), list[tuple[float, float]](), threading.Lock()

    def call(number: int, model: FlagModel) -> None:
        place = number
        while not over.is_set():
            took = _timed(model, requests[place % len(requests)])
            with lock:
                latencies.append((time.monotonic(), took))
            place += callers

    with _model(servers) as model, ThreadPoolExecutor(callers) as pool:
        running = [pool.submit(call, number, model) for number in range(callers)]
        time.sleep(warm_up_s)
        began = time.monotonic()
        time.sleep(seconds)
        ended = time.monotonic()
        over.set()
        for each in running:
            each.result()
    return Observed.of([took for at, took in latencies if began <= at < ended], began, ended)


def moments(rate: float, seconds: float) -> NDArray[np.float64]:
    """Return when requests come that know nothing of each other, so many a second, until some second."""
    gaps = np.random.default_rng(1).exponential(1 / rate, int(2 * rate * seconds) + 10)
    at = np.cumsum(gaps)
    return at[at < seconds]


def at_moments(
    servers: Sequence[Serving], requests: Sequence[list[str]], moments_s: NDArray[np.float64], warm_up_s: float
) -> Observed:
    """Return what requests see that come at some moments, whether or not those before them are answered."""
    begin = time.monotonic() + 0.2
    latencies = list[float]()

    def send(place: int, at: float, model: FlagModel) -> None:
        time.sleep(max(0.0, at - time.monotonic()))
        model.encode(requests[place % len(requests)])
        if at >= begin + warm_up_s:
            latencies.append(time.monotonic() - at)

    with _model(servers) as model, ThreadPoolExecutor(_THREADS) as pool:
        for each in [pool.submit(send, place, at, model) for place, at in enumerate(begin + moments_s)]:
            each.result()
    return Observed.of(latencies, begin + warm_up_s, begin + float(moments_s[-1]))


def counters(server: Serving, model_calls: Callable[[], object]) -> tuple[float, float]:
    """Return the tokens that a server encodes while something is called, and the seconds its tokenizer is at work."""
    before = _counters(server)
    model_calls()
    tokens, seconds = (after - was for after, was in zip(_counters(server), before, strict=True))
    return tokens, seconds


def _counters(server: Serving) -> tuple[float, float]:
    time.sleep(1.5)  # steps tell their numbers once a second
    seen = scrape(server.metrics_url)
    busy = seen.sum("flagtriton_busy_seconds_total", deployment=NAME, step="tokenizer")
    return seen.sum("flagtriton_tokens_total", deployment=NAME), busy


def _model(servers: Sequence[Serving]) -> FlagModel:
    urls = [server.grpc_url for server in servers]
    return FlagModel(NAME, url=urls, pooling_method="mean", show_progress=False, priority="interactive")


def _timed(model: FlagModel, texts: list[str]) -> float:
    began = time.monotonic()
    model.encode(texts)
    return time.monotonic() - began
