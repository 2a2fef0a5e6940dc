# SPDX-License-Identifier: Apache-2.0
"""The queue of one worker: interactive requests before bulk ones, bounded so that all are answered soon."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from flagtriton.protocol.settings import QueueLimits
from flagtriton_server.errors import RequestError

__all__ = ["QueuedRequest", "WorkQueue"]

T = TypeVar("T")

_BATCHES_BEFORE_BULK = 8
"""Every 8th batch is bulk even under interactive load, so that bulk jobs are never starved."""

_NEARLY = 7 / 8


@dataclass(frozen=True)
class QueuedRequest(Generic[T]):
    """One request in the queue.

    Attributes:
        work: the request as the step has parsed it.
        tokens: tokens of all its texts.
        answer: function that sends the answer, or an error in place of one; called once.
        is_cancelled: function that returns whether the client has gone.
        bulk: whether the request is part of a long job, which interactive requests may overtake.
        timeout_s: longest wait of this request, seconds; the queue's own limit applies as well.
        request_id: the client's ID of the request, for the log.
        enqueued_at: time when it entered the queue, seconds of the monotonic clock.
        dequeued_at: time when the worker took it, same clock.
        expires_at: time after which it is no longer run, same clock.
    """

    work: T
    tokens: int
    answer: Callable[[Any], object]
    is_cancelled: Callable[[], bool] = lambda: False
    bulk: bool = False
    timeout_s: float = math.inf
    request_id: str = ""
    enqueued_at: float = 0.0
    dequeued_at: float = 0.0
    expires_at: float = math.inf


@dataclass
class _Lane(Generic[T]):
    """The requests of one priority, in the order of their arrival."""

    name: str
    requests: deque[QueuedRequest[T]] = field(default_factory=deque)
    tokens: int = 0

    def add(self, request: QueuedRequest[T], limits: QueueLimits) -> None:
        count = len(self.requests)
        if count and (count >= limits.requests or self.tokens + request.tokens > limits.tokens):
            raise RequestError(
                f"the model is busy: {count} {self.name} requests of {self.tokens} tokens wait, of at most "
                f"{limits.requests} and {limits.tokens}; send it again later",
                "UNAVAILABLE",
            )
        self.requests.append(request)
        self.tokens += request.tokens

    def is_nearly_full(self, limits: QueueLimits) -> bool:
        """Return whether 7/8 of a limit is used. The rest is for requests that are already on their way."""
        return len(self.requests) >= _NEARLY * limits.requests or self.tokens >= _NEARLY * limits.tokens

    def pop(self) -> QueuedRequest[T]:
        request = self.requests.popleft()
        self.tokens -= request.tokens
        return replace(request, dequeued_at=time.monotonic())

    def pop_within(self, tokens: int) -> list[QueuedRequest[T]]:
        """Take requests in their order, up to a number of tokens; skip those that do not fit."""
        popped: list[QueuedRequest[T]] = []
        for _ in range(len(self.requests)):
            if self.requests[0].tokens <= tokens:
                tokens -= self.requests[0].tokens
                popped.append(self.pop())
            else:
                self.requests.rotate(-1)
        return popped


class WorkQueue(Generic[T]):
    """A bounded queue with two priorities. Safe to share between threads.

    Args:
        limits: limits of each priority.
        batch_token_budget: most tokens that are taken at once; a first request with more tokens is taken alone.
        tell: called as `tell(bulk, full)` when a request arrives and its lane is nearly full, and whenever requests
            are taken; `full` is whether the lane is nearly full.
    """

    def __init__(
        self,
        limits: QueueLimits,
        batch_token_budget: int,
        tell: Callable[[bool, bool], object] = lambda bulk, full: None,
    ) -> None:
        self._limits = limits
        self._tell = tell
        self._batch_token_budget = batch_token_budget
        self._interactive: _Lane[T] = _Lane("interactive")
        self._bulk: _Lane[T] = _Lane("bulk")
        self._changed = threading.Condition()
        self._turns = 0
        self._closed = False
        self._last_interactive_at = -math.inf

    def put(self, request: QueuedRequest[T]) -> None:
        """Add a request.

        Raises:
            RequestError: UNAVAILABLE, because too many requests wait, or the queue is closed.
        """
        now = time.monotonic()
        entered = replace(request, enqueued_at=now, expires_at=now + min(request.timeout_s, self._limits.timeout_s))
        with self._changed:
            if self._closed:
                raise RequestError("the model is being unloaded; send it again later", "UNAVAILABLE")
            lane = self._bulk if request.bulk else self._interactive
            if not request.bulk:
                self._last_interactive_at = now
            try:
                lane.add(entered, self._limits)
            finally:
                if lane.is_nearly_full(self._limits):
                    self._tell(request.bulk, True)
            self._changed.notify_all()

    def take(self) -> list[QueuedRequest[T]]:
        """Wait for requests and return the next batch, of one priority; empty once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._interactive.requests or self._bulk.requests or self._closed)
            return self._taken(self._next_lane())

    def take_interactive(self) -> list[QueuedRequest[T]]:
        """Return the next batch of interactive requests without waiting; empty if there are none."""
        if not self._interactive.requests:  # without the lock, because this runs before every layer
            return []
        with self._changed:
            return self._taken(self._interactive)

    def take_short(self) -> list[QueuedRequest[T]]:
        """Return interactive requests that fit one batch together, without waiting; skip those that do not fit."""
        if not self._interactive.requests:  # without the lock, as above
            return []
        with self._changed:
            requests = self._interactive.pop_within(self._batch_token_budget)
            if requests:
                self._tell(False, self._interactive.is_nearly_full(self._limits))
            self._changed.notify_all()
            return requests

    def had_interactive_within(self, seconds: float) -> bool:
        """Return whether an interactive request came within the last `seconds`, so that another one is likely."""
        return time.monotonic() - self._last_interactive_at < seconds

    def waiting(self, bulk: bool) -> tuple[int, int]:
        """Return the number of requests of a priority that wait, and the tokens of their texts."""
        with self._changed:
            lane = self._bulk if bulk else self._interactive
            return len(lane.requests), lane.tokens

    def wait_until_below(self, tokens: int, timeout_s: float) -> None:
        """Wait until the queue has fewer than `tokens` tokens, is closed, or the timeout has passed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._interactive.tokens + self._bulk.tokens < tokens or self._closed, timeout_s
            )

    def close(self) -> None:
        """Refuse further requests. `take` still returns those that wait, and is empty afterwards."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next_lane(self) -> _Lane[T]:
        self._turns = (self._turns + 1) % _BATCHES_BEFORE_BULK
        first, second = (self._bulk, self._interactive) if self._turns == 0 else (self._interactive, self._bulk)
        return first if first.requests else second

    def _taken(self, lane: _Lane[T]) -> list[QueuedRequest[T]]:
        requests: list[QueuedRequest[T]] = []
        tokens = 0
        while lane.requests and (not requests or tokens + lane.requests[0].tokens <= self._batch_token_budget):
            requests.append(lane.pop())
            tokens += requests[-1].tokens
        if requests:
            self._tell(requests[0].bulk, lane.is_nearly_full(self._limits))
        self._changed.notify_all()
        return requests
