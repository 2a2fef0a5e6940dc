# SPDX-License-Identifier: Apache-2.0
"""Computes rates from two scrapes of a server's metrics, one row for each deployment. Pure arithmetic."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from flagtriton.protocol.metrics import (
    BUSY,
    LAST_SEEN,
    MICRO_BATCH_TOKENS,
    MICRO_BATCHES,
    PADDING_TOKENS,
    QUEUE_SECONDS,
    REQUESTS,
    REQUESTS_TAKEN,
    REQUESTS_WITHIN,
    TEXTS,
    TOKENS,
    TRUNCATED_TEXTS,
    WAITING_REQUESTS,
    WAITING_REQUESTS_LIMIT,
    Metric,
)
from flagtriton_tools.observe.scrape import Scrape

__all__ = ["Rates", "quantile", "rates_between"]

_SILENT_S = 10.0


@dataclass(frozen=True)
class Rates:
    """Rates of one deployment between two scrapes. A value is None if nothing happened from which it follows.

    Attributes:
        silent: steps with a process that has reported nothing for 10 s.
        requests_per_s: requests answered.
        refused_per_s: requests refused because the deployment was busy.
        failed_per_s: requests that failed with any other error.
        texts_per_s: texts tokenised.
        tokens_per_s: tokens encoded.
        p50_s: median time of a request in the encoder step, with its wait in the queue, seconds.
        p99_s: 99th percentile of the same time, seconds.
        queue_s: mean wait in the encoder's queue, seconds.
        waiting: requests in the encoder's queues now.
        waiting_limit: number of waiting requests from which more are refused.
        busy: share of the time in which the encoder's processes worked, 0 to 1.
        tokens_a_pass: mean number of tokens of a forward pass.
        padding: share of the places in forward passes that held no token, 0 to 1.
        truncated: share of the texts that were cut, 0 to 1.
    """

    deployment: str
    silent: tuple[str, ...]
    requests_per_s: float
    refused_per_s: float
    failed_per_s: float
    texts_per_s: float
    tokens_per_s: float
    p50_s: float | None
    p99_s: float | None
    queue_s: float | None
    waiting: int
    waiting_limit: int
    busy: float
    tokens_a_pass: float | None
    padding: float | None
    truncated: float | None


def rates_between(before: Scrape, after: Scrape, now: Callable[[], float] = time.time) -> list[Rates]:
    """Return the rates of each deployment that is served, sorted by name."""
    names = {labels["deployment"] for labels, seen in after.series(LAST_SEEN.name) if not math.isnan(seen)}
    return [_of_deployment(before, after, name, now()) for name in sorted(names)]


def quantile(share: float, counts: list[tuple[float, float]]) -> float | None:
    """Return the value below which a share of the samples lies, interpolated linearly between two limits.

    Args:
        share: share of the samples, 0 to 1.
        counts: number of samples at or below each limit, in ascending order, with infinity last. Samples above the last
            finite limit count as at that limit.
    """
    if not counts or counts[-1][1] <= 0:
        return None
    wanted = share * counts[-1][1]
    for (lower, below), (upper, upto) in pairwise([(0.0, 0.0), *counts]):
        if upto >= wanted:
            if upper == float("inf"):
                return lower
            return lower + (upper - lower) * (wanted - below) / max(upto - below, 1e-12)
    return None


def _of_deployment(before: Scrape, after: Scrape, deployment: str, now: float) -> Rates:
    seconds = max(after.at - before.at, 1e-9)

    def grown(metric: Metric, **labels: str) -> float:
        own = {"deployment": deployment, **labels}
        return max(0.0, after.sum(metric.name, **own) - before.sum(metric.name, **own))

    def encoder(metric: Metric, **labels: str) -> float:
        return grown(metric, step="encoder", **labels)

    own = {"deployment": deployment, "step": "encoder"}
    alive = [labels for labels, seen in after.series(LAST_SEEN.name, **own) if not math.isnan(seen)]
    counted = Counter(labels.get("version") for labels in alive)
    processes = [({"version": version} if version else {}, count) for version, count in counted.items()]
    silent = {
        labels["step"] for labels, seen in after.series(LAST_SEEN.name, deployment=deployment) if now - seen > _SILENT_S
    }
    refused, every = grown(REQUESTS, code="unavailable"), grown(REQUESTS)
    good = grown(REQUESTS, code="ok")
    within = _within(before, after, own)
    passes, places = encoder(MICRO_BATCHES), encoder(MICRO_BATCH_TOKENS) + encoder(PADDING_TOKENS)
    waiting, limit = (_sum(after, metric, own) for metric in (WAITING_REQUESTS, WAITING_REQUESTS_LIMIT))
    # Steps report their numbers once a second, so an interval may contain some of the time before it.
    busy = max((encoder(BUSY, **labels) / count for labels, count in processes), default=0.0)
    return Rates(
        deployment,
        tuple(sorted(silent)),
        encoder(REQUESTS, code="ok") / seconds,
        refused / seconds,
        max(0.0, every - good - refused) / seconds,
        grown(TEXTS) / seconds,
        encoder(TOKENS) / seconds,
        quantile(0.5, within),
        quantile(0.99, within),
        _ratio(encoder(QUEUE_SECONDS), encoder(REQUESTS_TAKEN)),
        waiting,
        2 * limit,  # the limit holds for each of the two priorities
        min(1.0, busy / seconds),
        _ratio(encoder(MICRO_BATCH_TOKENS), passes),
        _ratio(encoder(PADDING_TOKENS), places),
        _ratio(grown(TRUNCATED_TEXTS), grown(TEXTS)),
    )


def _sum(scrape: Scrape, metric: Metric, own: dict[str, str]) -> int:
    """Return the sum of a gauge's series without those of processes that have ended."""
    return int(sum(value for _, value in scrape.series(metric.name, **own) if not math.isnan(value)))


def _within(before: Scrape, after: Scrape, own: dict[str, str]) -> list[tuple[float, float]]:
    bounds = {labels["seconds"] for labels, _ in after.series(REQUESTS_WITHIN.name, **own)}
    name = REQUESTS_WITHIN.name
    counts = (
        (float(bound), after.sum(name, **own, seconds=bound) - before.sum(name, **own, seconds=bound))
        for bound in bounds
    )
    return sorted(counts)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
