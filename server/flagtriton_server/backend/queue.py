# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for one worker: interactive ones before bulk, and no more than can be answered soon."""

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

__all__ = ["Job", "WorkQueue"]

T = TypeVar("T")

_BATCHES_BEFORE_BULK = 8
"""Of so many turns under interactive load one is bulk's, so that a corpus goes on, however slowly."""

_NEARLY = 7 / 8


@dataclass(frozen=True)
class Job(Generic[T]):
    """One request that waits.

    Attributes:
        work: what the step reads of it.
        tokens: of all its texts.
        answer: sends its answer, or the error that it gets in place of one; called once.
        is_cancelled: whether its client has gone.
        bulk: part of a long job, which others may overtake.
        timeout_s: how long it waits at most, if less than the queue's own.
        request_id: its client's, for the log.
        enqueued_at: when it was put into the queue, by the monotonic clock.
        dequeued_at: when its turn came, likewise.
        expires_at: when it has waited long enough, likewise.
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
    """The requests of one priority, in the order they came."""

    name: str
    jobs: deque[Job[T]] = field(default_factory=deque)
    tokens: int = 0

    def add(self, job: Job[T], limits: QueueLimits) -> None:
        if self.jobs and (len(self.jobs) >= limits.requests or self.tokens + job.tokens > limits.tokens):
            raise RequestError(
                f"the model is busy: {len(self.jobs)} {self.name} requests of {self.tokens} tokens wait, of at most "
                f"{limits.requests} and {limits.tokens}; send it again later",
                "UNAVAILABLE",
            )
        self.jobs.append(job)
        self.tokens += job.tokens

    def is_nearly_full(self, limits: QueueLimits) -> bool:
        """Return whether what is left is for requests that are under way already."""
        return len(self.jobs) >= _NEARLY * limits.requests or self.tokens >= _NEARLY * limits.tokens

    def pop(self) -> Job[T]:
        job = self.jobs.popleft()
        self.tokens -= job.tokens
        return replace(job, dequeued_at=time.monotonic())

    def pop_within(self, tokens: int) -> list[Job[T]]:
        """Take requests in their order, past those with which there would be more tokens."""
        popped: list[Job[T]] = []
        for _ in range(len(self.jobs)):
            if self.jobs[0].tokens <= tokens:
                tokens -= self.jobs[0].tokens
                popped.append(self.pop())
            else:
                self.jobs.rotate(-1)
        return popped


class WorkQueue(Generic[T]):
    """Bounded, with two priorities. Safe to share between threads.

    Args:
        limits: of each priority.
        batch_token_budget: what is taken at once, if the first request has no more by itself.
        tell: told of a priority, bulk or not, when it is nearly full, True, and when some of it has been taken.
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

    def put(self, job: Job[T]) -> None:
        """Let a request wait.

        Raises:
            RequestError: UNAVAILABLE, because too many do.
        """
        now = time.monotonic()
        entered = replace(job, enqueued_at=now, expires_at=now + min(job.timeout_s, self._limits.timeout_s))
        with self._changed:
            if self._closed:
                raise RequestError("the model is being unloaded; send it again later", "UNAVAILABLE")
            lane = self._bulk if job.bulk else self._interactive
            if not job.bulk:
                self._last_interactive_at = now
            try:
                lane.add(entered, self._limits)
            finally:
                if lane.is_nearly_full(self._limits):
                    self._tell(job.bulk, True)
            self._changed.notify_all()

    def take(self) -> list[Job[T]]:
        """Wait for requests and return those whose turn it is, of one priority; none once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._interactive.jobs or self._bulk.jobs or self._closed)
            return self._taken(self._next_lane())

    def take_interactive(self) -> list[Job[T]]:
        """Return the interactive requests whose turn it is, if any, without waiting."""
        if not self._interactive.jobs:  # without the lock: it is asked before every layer
            return []
        with self._changed:
            return self._taken(self._interactive)

    def take_short(self) -> list[Job[T]]:
        """Return interactive requests of a turn at most, past those that have more by themselves, without waiting."""
        if not self._interactive.jobs:  # without the lock, as above
            return []
        with self._changed:
            jobs = self._interactive.pop_within(self._batch_token_budget)
            if jobs:
                self._tell(False, self._interactive.is_nearly_full(self._limits))
            self._changed.notify_all()
            return jobs

    def had_interactive_within(self, seconds: float) -> bool:
        """Return whether an interactive request came so lately that another may be expected."""
        return time.monotonic() - self._last_interactive_at < seconds

    def waiting(self, bulk: bool) -> tuple[int, int]:
        """Return how many requests of a priority wait, and the tokens of their texts."""
        with self._changed:
            lane = self._bulk if bulk else self._interactive
            return len(lane.jobs), lane.tokens

    def wait_until_below(self, tokens: int, timeout_s: float) -> None:
        """Wait until the requests in the queue have fewer tokens, it is closed, or the time is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._interactive.tokens + self._bulk.tokens < tokens or self._closed, timeout_s
            )

    def close(self) -> None:
        """Let `take` return; what waits is still taken first."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next_lane(self) -> _Lane[T]:
        self._turns = (self._turns + 1) % _BATCHES_BEFORE_BULK
        first, second = (self._bulk, self._interactive) if self._turns == 0 else (self._interactive, self._bulk)
        return first if first.jobs else second

    def _taken(self, lane: _Lane[T]) -> list[Job[T]]:
        jobs: list[Job[T]] = []
        tokens = 0
        while lane.jobs and (not jobs or tokens + lane.jobs[0].tokens <= self._batch_token_budget):
            jobs.append(lane.pop())
            tokens += jobs[-1].tokens
        if jobs:
            self._tell(jobs[0].bulk, lane.is_nearly_full(self._limits))
        self._changed.notify_all()
        return jobs
