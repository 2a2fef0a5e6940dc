# SPDX-License-Identifier: Apache-2.0
"""Metrics of a running step, and its request log if the environment asks for one. Imports no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from flagtriton.protocol.metrics import (
    BUSY,
    DURATION_BOUNDS_S,
    LAST_SEEN,
    MICRO_BATCH_TOKENS,
    MICRO_BATCHES,
    PADDING_TOKENS,
    QUEUE_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    REQUESTS_TAKEN,
    REQUESTS_WITHIN,
    TEXTS,
    TOKENS,
    TRUNCATED_TEXTS,
    WAITING_REQUESTS,
    WAITING_REQUESTS_LIMIT,
    WAITING_TOKENS,
    WAITING_TOKENS_LIMIT,
)
from flagtriton.protocol.settings import QueueLimits
from flagtriton_server.backend.metrics_publisher import MetricsPublisher
from flagtriton_server.backend.queue import QueuedRequest, WorkQueue
from flagtriton_server.backend.request_log import RequestLog
from flagtriton_server.backend.requests import RequestContext
from flagtriton_server.backend.scheduler import StepObserver
from flagtriton_server.backend.server_log import log_error, open_series

__all__ = ["StepMetrics"]

_OK = "ok"
_BOUNDS_S = {**{bound: f"{bound:g}" for bound in DURATION_BOUNDS_S}, math.inf: "+Inf"}
_OF_TOKENIZERS = (TEXTS, TRUNCATED_TEXTS)
_OF_ENCODERS = (TOKENS, MICRO_BATCHES, MICRO_BATCH_TOKENS, PADDING_TOKENS)


class StepMetrics(StepObserver):
    """Metrics and request log of one process of a step.

    Args:
        args: the argument of the step's `initialize`.
        encodes: True for a step that runs forward passes, False for one that tokenizes texts.
    """

    def __init__(self, args: Mapping[str, str], *, encodes: bool) -> None:
        self._encodes = encodes
        deployment, _, step = args["model_name"].rpartition("_")
        labels = {"deployment": deployment, "step": step, "version": args["model_version"]}
        self._process = args.get("model_instance_name", args["model_name"])
        self._tally = MetricsPublisher(open_series, labels, log_error)
        self._log = RequestLog.wanted(labels)
        own = {"process": self._process}
        self._tally.watch(LAST_SEEN, time.time, **own)
        self._tally.add(BUSY, 0, **own)
        for metric in _OF_ENCODERS if encodes else _OF_TOKENIZERS:
            self._tally.add(metric, 0)

    def of_queue(self, queue: WorkQueue[Any], limits: QueueLimits) -> None:
        """Publish the requests and tokens that wait in a queue, and their limits; start its counters at 0."""
        own = {"process": self._process}
        self._tally.watch(WAITING_REQUESTS_LIMIT, lambda: limits.requests, **own)
        self._tally.watch(WAITING_TOKENS_LIMIT, lambda: limits.tokens, **own)
        for bulk in (False, True):
            priority = {"priority": priority_name(bulk)}
            self._tally.watch(WAITING_REQUESTS, partial(_waiting_requests, queue, bulk), **priority, **own)
            self._tally.watch(WAITING_TOKENS, partial(_waiting_tokens, queue, bulk), **priority, **own)
            for metric in (QUEUE_SECONDS, REQUESTS_TAKEN, REQUEST_SECONDS):
                self._tally.add(metric, 0, **priority)
            self._tally.add(REQUESTS, 0, **priority, code=_OK)
            for bound in _BOUNDS_S.values():
                self._tally.add(REQUESTS_WITHIN, 0, **priority, seconds=bound)

    def start(self) -> None:
        """Start to publish."""
        self._tally.start()

    def stop(self) -> None:
        """Publish the last values and stop."""
        self._tally.stop()

    def on_batch_done(self, seconds: float) -> None:
        """Add the duration of a finished batch, in seconds, to the busy time."""
        self._tally.add(BUSY, seconds, process=self._process)

    def on_response(self, request: QueuedRequest[Any], answer: object) -> None:
        """Record a request that got its answer, or an exception in place of one."""
        error = answer if isinstance(answer, Exception) else None
        waited_s, seconds = request.dequeued_at - request.enqueued_at, time.monotonic() - request.enqueued_at
        priority = priority_name(request.bulk)
        self._count(priority, error)
        self._tally.add(REQUESTS_TAKEN, priority=priority)
        self._tally.add(QUEUE_SECONDS, waited_s, priority=priority)
        if error is None:
            self._tally.add(REQUEST_SECONDS, seconds, priority=priority)
            for bound_s, bound in _BOUNDS_S.items():
                if seconds <= bound_s:
                    self._tally.add(REQUESTS_WITHIN, priority=priority, seconds=bound)
            self._tally.add(*((TOKENS, request.tokens) if self._encodes else (TEXTS, request.work.rows)))
        sizes = {"texts": request.work.rows, "tokens": request.tokens}
        self._write(priority, error, request.request_id, **sizes, queue_ms=_ms(waited_s), total_ms=_ms(seconds))

    def on_rejected(self, context: RequestContext, error: Exception) -> None:
        """Count a request that was rejected before it was queued."""
        priority = priority_name(context.bulk)
        self._count(priority, error)
        self._write(priority, error, context.request_id)

    def truncated(self, texts: int) -> None:
        """Count texts that were truncated."""
        self._tally.add(TRUNCATED_TEXTS, texts)

    def on_forward_pass(self, tokens: int, places: int) -> None:
        """Count one forward pass: its tokens, and the places that it computed, padding included."""
        self._tally.add(MICRO_BATCHES)
        self._tally.add(MICRO_BATCH_TOKENS, tokens)
        self._tally.add(PADDING_TOKENS, places - tokens)

    def _count(self, priority: str, error: Exception | None) -> None:
        self._tally.add(REQUESTS, priority=priority, code=_code(error))

    def _write(self, priority: str, error: Exception | None, request_id: str, **said: float) -> None:
        if self._log is not None:
            message = None if error is None else str(error)
            self._log.write(id=request_id or None, priority=priority, code=_code(error), **said, error=message)


def priority_name(bulk: bool) -> str:
    """Return the name of a priority in metrics and logs."""
    return "bulk" if bulk else "interactive"


def _code(error: Exception | None) -> str:
    return _OK if error is None else str(getattr(error, "code", "INVALID_ARG")).lower()


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _waiting_requests(queue: WorkQueue[Any], bulk: bool) -> float:
    return queue.waiting(bulk)[0]


def _waiting_tokens(queue: WorkQueue[Any], bulk: bool) -> float:
    return queue.waiting(bulk)[1]
