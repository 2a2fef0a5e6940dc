# SPDX-License-Identifier: Apache-2.0
"""The thread that does a step's work while Triton hands over further requests.

Triton's own batcher knows rows, not tokens, and cannot let a query overtake a batch that runs. So a step takes every
request at once, and this thread decides what runs next; between two layers of bulk work it lets interactive requests
pass.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from flagtriton_server.backend.queue import Job, WorkQueue
from flagtriton_server.errors import RequestError

__all__ = ["StepObserver", "Worker"]

T = TypeVar("T")


class StepObserver:
    """Is called with what a worker does; this base ignores it."""

    def on_response(self, job: Job[Any], answer: object) -> None:
        """A request has its answer, or an exception in place of one."""

    def on_batch_done(self, seconds: float) -> None:
        """A turn is over."""


class Worker(Generic[T]):
    """Runs requests that wait, one turn at a time.

    Args:
        queue: where they wait.
        run: the work on the requests of one turn, one answer each.
        log_error: told what went wrong where `run` raised.
        watch: told of every request.
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
        """Begin, once the thread has done what comes first; raise what that raises.

        A model is best loaded there: where two threads of a process have run torch, OpenMP has more threads than there
        are cores, lets them sleep between any two operations, and a short query takes twice the time.
        """
        self._first = first
        self._thread.start()
        self._begun.result()

    def stop(self) -> None:
        """End once the requests that wait are answered."""
        self._queue.close()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive()

    @property
    def is_preemptible(self) -> bool:
        """Whether it is at bulk work, between whose layers interactive requests may pass."""
        return self._is_preemptible

    def run_interactive_now(self) -> None:
        """Run the interactive requests that wait, if it is bulk work that calls this."""
        if not self._is_preemptible:
            return
        self._is_preemptible = False
        try:
            if jobs := self._queue.take_interactive():
                self._answer(jobs)
        finally:
            self._is_preemptible = True

    def run_short_now(self) -> None:
        """Run interactive requests that wait and are no longer than a turn, whatever work it is that calls this."""
        if self._passes:
            return
        self._passes = True
        try:
            if jobs := self._queue.take_short():
                self._answer(jobs)
        finally:
            self._passes = False

    def _work(self) -> None:
        try:
            self._first()
        except BaseException as error:
            self._begun.set_exception(error)
            return
        self._begun.set_result(None)
        while jobs := self._queue.take():
            began = time.monotonic()
            self._is_preemptible = jobs[0].bulk
            self._answer(jobs)
            self._is_preemptible = False
            self._watch.on_batch_done(time.monotonic() - began)
            del jobs  # the requests' tensors lie in shared memory as long as they are held

    def _answer(self, jobs: Sequence[Job[T]]) -> None:
        wanted = []
        for job in jobs:
            reason = _given_up(job)
            if reason is None:
                wanted.append(job)
            else:
                self._send(job, reason)
        if not wanted:
            return
        try:
            answers: Sequence[Any] = self._run([job.work for job in wanted])
        except Exception as error:  # whatever it is, the next requests must not suffer from it
            self._log_error(traceback.format_exc())
            failure = RequestError(f"the model failed on this batch: {type(error).__name__}, see its log", "INTERNAL")
            answers = [failure] * len(wanted)
        for job, answer in zip(wanted, answers, strict=True):
            self._send(job, answer)

    def _send(self, job: Job[T], answer: object) -> None:
        try:
            job.answer(answer)
            self._watch.on_response(job, answer)
        except Exception:  # one that cannot be sent must not keep the others from theirs
            self._log_error(traceback.format_exc())


def _given_up(job: Job[Any]) -> RequestError | None:
    """Return why a request is not to be run: nobody wants its answer any more, or it comes too late."""
    if job.is_cancelled():
        return RequestError("the client has cancelled this request", "CANCELLED")
    if job.expires_at < time.monotonic():
        return RequestError("the request has waited too long; send it again later", "UNAVAILABLE")
    return None
