# SPDX-License-Identifier: Apache-2.0
"""The worker thread of a step, which runs batches while Triton delivers further requests.

Triton's own batcher counts rows, not tokens, and cannot preempt a batch that runs. So a step takes every request at
once, and this thread decides which batch runs next. Between two layers of a bulk batch it runs interactive requests.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from flagtriton_server.backend.queue import QueuedRequest, WorkQueue
from flagtriton_server.errors import RequestError

__all__ = ["StepObserver", "Worker"]

T = TypeVar("T")


class StepObserver:
    """Callbacks for the events of a worker. This base class ignores them."""

    def on_response(self, request: QueuedRequest[Any], answer: object) -> None:
        """Handle a request that got its answer, or an exception in place of one."""

    def on_batch_done(self, seconds: float) -> None:
        """Handle the end of a batch, with its duration in seconds."""


class Worker(Generic[T]):
    """Runs the requests of a queue, one batch at a time.

    Args:
        queue: the requests that wait.
        run: returns one answer for each request of a batch.
        log_error: called with the traceback if `run` fails or an answer cannot be sent.
        watch: observer of all requests and batches.
    """

    def __init__(
        self,
        queue: WorkQueue[T],
        run: Callable[[list[T]], Sequence[Any]],
        log_error: Callable[[str], object],
        watch: StepObserver | None = None,
    ) -> None:
        self._queue = queue
        self._watch = watch or StepObserver()
        self._run = run
        self._log_error = log_error
        self._is_preemptible = False
        self._passes = False
        self._first: Callable[[], None] = lambda: None
        self._begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="flagtriton", daemon=True)

    def start(self, first: Callable[[], None] = lambda: None) -> None:
        """Start the thread, which first calls `first`; raise the exception of that call if it fails.

        `first` is the right place to load a model. If two threads of a process have run torch, OpenMP has more threads
        than there are cores. It then puts them to sleep between any two operations, and a short query takes twice the
        time.
        """
        self._first = first
        self._thread.start()
        self._begun.result()

    def stop(self) -> None:
        """Stop the thread after it has answered the requests that wait."""
        self._queue.close()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive()

    @property
    def is_preemptible(self) -> bool:
        """Whether a bulk batch runs, between whose layers interactive requests may run."""
        return self._is_preemptible

    def run_interactive_now(self) -> None:
        """Run a batch of the interactive requests that wait, if a bulk batch calls this."""
        if not self._is_preemptible:
            return
        self._is_preemptible = False
        try:
            if requests := self._queue.take_interactive():
                self._answer(requests)
        finally:
            self._is_preemptible = True

    def run_short_now(self) -> None:
        """Run interactive requests that wait and together fit one batch, whether a bulk or another batch calls this."""
        if self._passes:
            return
        self._passes = True
        try:
            if requests := self._queue.take_short():
                self._answer(requests)
        finally:
            self._passes = False

    def _work(self) -> None:
        try:
            self._first()
        except BaseException as error:
            self._begun.set_exception(error)
            return
        self._begun.set_result(None)
        while requests := self._queue.take():
            began = time.monotonic()
            self._is_preemptible = requests[0].bulk
            self._answer(requests)
            self._is_preemptible = False
            self._watch.on_batch_done(time.monotonic() - began)
            del requests  # the requests' tensors stay in shared memory as long as the requests exist

    def _answer(self, requests: Sequence[QueuedRequest[T]]) -> None:
        wanted = []
        for request in requests:
            reason = _given_up(request)
            if reason is None:
                wanted.append(request)
            else:
                self._send(request, reason)
        if not wanted:
            return
        try:
            answers: Sequence[Any] = self._run([request.work for request in wanted])
        except Exception as error:  # any error: the next requests must not be affected
            self._log_error(traceback.format_exc())
            failure = RequestError(f"the model failed on this batch: {type(error).__name__}, see its log", "INTERNAL")
            answers = [failure] * len(wanted)
        for request, answer in zip(wanted, answers, strict=True):
            self._send(request, answer)

    def _send(self, request: QueuedRequest[T], answer: object) -> None:
        try:
            request.answer(answer)
            self._watch.on_response(request, answer)
        except Exception:  # an answer that cannot be sent must not stop the others
            self._log_error(traceback.format_exc())


def _given_up(request: QueuedRequest[Any]) -> RequestError | None:
    """Return the error of a request that is not run, because it was cancelled or has expired; else None."""
    if request.is_cancelled():
        return RequestError("the client has cancelled this request", "CANCELLED")
    if request.expires_at < time.monotonic():
        return RequestError("the request has waited too long; send it again later", "UNAVAILABLE")
    return None
