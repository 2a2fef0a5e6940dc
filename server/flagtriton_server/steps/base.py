# SPDX-License-Identifier: Apache-2.0
"""The base of steps with a queue: requests wait in the step's process, and a worker thread answers them.

Requests do not wait in Triton's queue, because it delays some of them once it has a bound, a time limit or priorities.
A request that arrives while all instances are busy is then delivered with the next request, or else half a second
later. github.com/triton-inference-server/core/pull/237 turned off the code that prevented it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from flagtriton.protocol.settings import QueueLimits
from flagtriton_server.backend.metrics import StepMetrics
from flagtriton_server.backend.queue import QueuedRequest, WorkQueue
from flagtriton_server.backend.requests import PbRequest, RequestContext, StepRequest
from flagtriton_server.backend.responses import PbResponse, ResponseSender, respond_later
from flagtriton_server.backend.scheduler import Worker
from flagtriton_server.backend.server_log import log_error
from flagtriton_server.errors import RequestError

__all__ = ["QueuedStep", "T"]


class _Work(Protocol):
    @property
    def tokens(self) -> int: ...

    @property
    def rows(self) -> int: ...


T = TypeVar("T", bound=_Work)

_BATCHES_AHEAD = 2
"""Batches that one of several instances takes without a pause. The first free instance takes further requests."""

_PAUSE_S = 0.05
"""Seconds for which an instance leaves further requests to the others. A free instance takes them within this time."""


class QueuedStep(Generic[T]):
    """Handles the requests of a step, from Triton's `execute` to their answers.

    Args:
        limits: limits of the queue.
        batch_token_budget: most tokens of one call of `run`; a first request with more tokens runs alone.
        instances: number of instances of the step, on all devices.
        read: parses one request for `run`; may raise `RequestError` or `OptionError`.
        run: returns one answer for each of several requests.
        watch: observer of all requests; it starts and stops with the step.
        is_long: returns whether a request takes so long to read that others would wait for it.
        admits: returns whether requests are admitted, by priority: True is bulk. Others are rejected.
        tell: called as `tell(bulk, full)`, as `WorkQueue` describes it.
    """

    def __init__(
        self,
        limits: QueueLimits,
        batch_token_budget: int,
        instances: int,
        read: Callable[[StepRequest], T],
        run: Callable[[list[T]], Sequence[Any]],
        *,
        watch: StepMetrics,
        is_long: Callable[[StepRequest], bool] = lambda request: False,
        admits: Callable[[bool], bool] = lambda bulk: True,
        tell: Callable[[bool, bool], object] = lambda bulk, full: None,
    ) -> None:
        self._read = read
        self._is_long = is_long
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="flagtriton-reader")  # starts its thread on first use
        self._admits = admits
        self._tokens_ahead = _BATCHES_AHEAD * batch_token_budget if instances > 1 else None
        self._queue: WorkQueue[T] = WorkQueue(limits, batch_token_budget, tell)
        self._watch = watch
        self._watch.of_queue(self._queue, limits)
        self._worker = Worker(self._queue, run, log_error, watch)

    def start(self, load: Callable[[], None] = lambda: None) -> None:
        """Call `load` in the worker thread, then start to answer requests; raise the exception of `load`."""
        self._worker.start(load)
        self._watch.start()

    def execute(self, requests: Sequence[PbRequest]) -> list[PbResponse | None]:
        """Return the result of Triton's `execute`: a response for each request that is rejected at once, else None."""
        responses = [self._respond(request) for request in requests]
        if self._tokens_ahead is not None:
            self._queue.wait_until_below(self._tokens_ahead, _PAUSE_S)
        return responses

    def is_ready(self) -> bool:
        """Return whether requests are answered."""
        return self._worker.is_alive

    def run_short_now(self) -> None:
        """Answer interactive requests that wait and together fit one batch; `run` calls it between two texts."""
        self._worker.run_short_now()

    def finalize(self) -> None:
        """Stop after all requests are answered."""
        self._reader.shutdown()
        self._worker.stop()
        self._watch.stop()

    def _respond(self, request: PbRequest) -> PbResponse | None:
        return respond_later(request, self._read, self._submit, self._watch.on_rejected, self._reader_of)

    def _reader_of(self, request: StepRequest) -> ThreadPoolExecutor | None:
        return self._reader if self._is_long(request) else None

    def _submit(self, work: T, context: RequestContext, sender: ResponseSender) -> None:
        if not self._admits(context.bulk):
            raise RequestError("the model is busy: its queue is full; send it again later", "UNAVAILABLE")
        self._queue.put(
            QueuedRequest(
                work,
                work.tokens,
                sender.send,
                sender.is_cancelled,
                context.bulk,
                context.timeout_s,
                context.request_id,
            )
        )
