# SPDX-License-Identifier: Apache-2.0
"""What real servers do under callers that wait for their answers, and under requests that come when they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from flagtriton import FlagModel
from flagtriton_tools.top.scrape import scrape
from tests.capacity.servers import NAME
from tests.faults.serving import Serving

__all__ = ["Observed", "latencies_alone", "under_callers", "under_rate"]

_THREADS = 64


@dataclass(frozen=True)
class Observed:
    """What was seen.

    Attributes:
        requests_per_s: answered.
        p50_s: of them.
        p95_s: likewise.
    """

    requests_per_s: float
    p50_s: float
    p95_s: float

    @classmethod
    def of(cls, latencies_s: Sequence[float], seconds: float) -> Observed:
        """Return that of some requests' latencies."""
        return cls(len(latencies_s) / seconds, *(float(np.percentile(latencies_s, of)) for of in (50, 95)))


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
    return Observed.of([took for at, took in latencies if began <= at < ended], ended - began)


def under_rate(
    servers: Sequence[Serving], requests: Sequence[list[str]], rate: float, seconds: float, warm_up_s: float
) -> Observed:
    """Return what requests see that come at a rate, whether or not those before them are answered."""
    gaps = np.random.default_rng(1).exponential(1 / rate, int(2 * rate * (seconds + warm_up_s)) + 10)
    begin = time.monotonic() + 0.2
    due = [at for at in begin + np.cumsum(gaps) if at < begin + warm_up_s + seconds]
    latencies = list[float]()

    def send(place: int, at: float, model: FlagModel) -> None:
        time.sleep(max(0.0, at - time.monotonic()))
        model.encode(requests[place % len(requests)])
        if at >= begin + warm_up_s:
            latencies.append(time.monotonic() - at)

    with _model(servers) as model, ThreadPoolExecutor(_THREADS) as pool:
        for each in [pool.submit(send, place, at, model) for place, at in enumerate(due)]:
            each.result()
    return Observed.of(latencies, seconds)


def tokens_of(server: Serving, model_calls: Callable[[], object]) -> float:
    """Return how many tokens a server encodes while something is called."""
    time.sleep(1.5)
    before = scrape(server.metrics_url).sum("flagtriton_tokens_total", deployment=NAME)
    model_calls()
    time.sleep(1.5)
    return scrape(server.metrics_url).sum("flagtriton_tokens_total", deployment=NAME) - before


def _model(servers: Sequence[Serving]) -> FlagModel:
    urls = [server.grpc_url for server in servers]
    return FlagModel(NAME, url=urls, pooling_method="mean", show_progress=False, priority="interactive")


def _timed(model: FlagModel, texts: list[str]) -> float:
    began = time.monotonic()
    model.encode(texts)
    return time.monotonic() - began
