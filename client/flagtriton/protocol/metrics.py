# SPDX-License-Identifier: Apache-2.0
"""The steps' Prometheus metrics, in addition to Triton's: names, units and meanings. Imports neither torch nor Triton.

Each metric has the labels `deployment`, `step` and `version`. Prometheus computes rates, fractions and percentiles with
the rules under `docker/prometheus`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "BUSY",
    "DURATION_BOUNDS_S",
    "LAST_SEEN",
    "METRICS",
    "MICRO_BATCHES",
    "MICRO_BATCH_TOKENS",
    "PADDING_TOKENS",
    "QUEUE_SECONDS",
    "REQUESTS",
    "REQUESTS_TAKEN",
    "REQUESTS_WITHIN",
    "REQUEST_SECONDS",
    "TEXTS",
    "TOKENS",
    "TRUNCATED_TEXTS",
    "WAITING_REQUESTS",
    "WAITING_REQUESTS_LIMIT",
    "WAITING_TOKENS",
    "WAITING_TOKENS_LIMIT",
    "Metric",
]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: a name by Prometheus' rules: the unit is last, and counters end with `_total`.
        help: one sentence.
        kind: kind of the metric in Triton's metric API.
        labels: labels in addition to `deployment`, `step` and `version`.
    """

    name: str
    help: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...] = ()


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"flagtriton_{name}_total", meaning, "counter", labels)


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"flagtriton_{name}", meaning, "gauge", labels)


DURATION_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds for the count of answered requests by duration, seconds."""

REQUESTS: Final = _counter("requests", "Requests by what they got: ok, or the code of their error.", "priority", "code")
REQUEST_SECONDS: Final = _counter(
    "request_seconds", "From a request's arrival at the step to its answer, of those answered.", "priority"
)
REQUESTS_WITHIN: Final = _counter(
    "requests_within", "Answered requests that took at most so many seconds in the step.", "priority", "seconds"
)
QUEUE_SECONDS: Final = _counter(
    "queue_seconds", "What requests waited for their turn in the step, of those whose turn came.", "priority"
)
REQUESTS_TAKEN: Final = _counter("requests_taken", "Requests whose turn came.", "priority")
BUSY: Final = _counter("busy_seconds", "Time that a process of the step was at work.", "process")
TEXTS: Final = _counter("texts", "Texts tokenised; a pair is two.")
TRUNCATED_TEXTS: Final = _counter("truncated_texts", "Texts of which tokens were cut off.")
TOKENS: Final = _counter("tokens", "Tokens of texts encoded.")
MICRO_BATCHES: Final = _counter("micro_batches", "Forward passes.")
MICRO_BATCH_TOKENS: Final = _counter(
    "micro_batch_tokens", "Tokens that went through forward passes; a prefix that texts share goes once."
)
PADDING_TOKENS: Final = _counter("padding_tokens", "Places beside them that were computed and are no token of a text.")
WAITING_REQUESTS: Final = _gauge("waiting_requests", "Requests in a process's queue.", "priority", "process")
WAITING_TOKENS: Final = _gauge("waiting_tokens", "Tokens of their texts.", "priority", "process")
WAITING_REQUESTS_LIMIT: Final = _gauge(
    "waiting_requests_limit", "At so many requests a process refuses more of a priority.", "process"
)
WAITING_TOKENS_LIMIT: Final = _gauge("waiting_tokens_limit", "Likewise for the tokens of their texts.", "process")
LAST_SEEN: Final = _gauge(
    "step_last_seen_timestamp_seconds", "When a process of the step was alive, written every second.", "process"
)

METRICS: Final = (
    REQUESTS,
    REQUEST_SECONDS,
    REQUESTS_WITHIN,
    QUEUE_SECONDS,
    REQUESTS_TAKEN,
    BUSY,
    TEXTS,
    TRUNCATED_TEXTS,
    TOKENS,
    MICRO_BATCHES,
    MICRO_BATCH_TOKENS,
    PADDING_TOKENS,
    WAITING_REQUESTS,
    WAITING_TOKENS,
    WAITING_REQUESTS_LIMIT,
    WAITING_TOKENS_LIMIT,
    LAST_SEEN,
)
