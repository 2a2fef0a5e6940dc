# SPDX-License-Identifier: Apache-2.0
"""What a step does with Triton's requests: they wait here, and a thread of the step's own answers them.

Not in Triton's queue: as soon as that has a bound, a time limit or priorities, a request that comes while all
instances are at work is handed over when the next one comes, or else half a second later
(github.com/triton-inference-server/core/pull/237 turned off what had prevented it). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from flagtriton.protocol.settings import QueueLimits
from flagtriton_server.backend.metrics import StepMetrics
from flagtriton_server.backend.queue import Job, WorkQueue
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
"""What an instance beside others takes without a pause, in turns; the rest is for the first that is free."""

_PAUSE_S = 0.05
"""How long it leaves the rest to others, which would have taken it by then if they could."""


class QueuedStep(Generic[T]):
    """Requests of a step, from Triton's `execute` to their answers.

    Args:
        limits: what may wait.
        batch_token_budget: what `run` is handed at once, if the first request has no more by itself.
        instances: of the step, on all devices.
        read: one request to what `run` works on; may raise `RequestError` or `OptionError`.
        run: the work on several requests, one answer each.
        watch: told of every request; begins and ends with the step.
        is_long: whether a request takes so long to read that others would wait for that.
        admits: whether a request, bulk or not, has a chance; one that has none is refused.
        tell: told of a priority, bulk or not, when it is nearly full, True, and when some of it has been taken.
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
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="flagtriton-reader")  # has no thread before it is used
        self._admits = admits
        self._tokens_ahead = _BATCHES_AHEAD * batch_token_budget if instances > 1 else None
        self._queue: WorkQueue[T] = WorkQueue(limits, batch_token_budget, tell)
        self._watch = watch
        self._watch.of_queue(self._queue, limits)
        self._worker = Worker(self._queue, run, log_error, watch)

    def start(self, load: Callable[[], None] = lambda: None) -> None:
        """Load what is needed in the thread that is to use it, and begin to answer; raise what loading raises."""
        self._worker.start(load)
        self._watch.start()

    def execute(self, requests: Sequence[PbRequest]) -> list[PbResponse | None]:
        """Return what Triton's `execute` is to: an answer for each request that is refused at once, else None."""
        responses = [self._respond(request) for request in requests]
        if self._tokens_ahead is not None:
            self._queue.wait_until_below(self._tokens_ahead, _PAUSE_S)
        return responses

    def is_ready(self) -> bool:
        """Return whether requests are answered."""
        return self._worker.is_alive

    def run_short_now(self) -> None:
        """Answer interactive requests that wait and are no longer than a turn; for `run` to call between two texts."""
        self._worker.run_short_now()

    def finalize(self) -> None:
        """End once all requests are answered."""
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
            Job(
                work,
                work.tokens,
                sender.send,
                sender.is_cancelled,
                context.bulk,
                context.timeout_s,
                context.request_id,
            )
        )
