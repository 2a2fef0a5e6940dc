# SPDX-License-Identifier: Apache-2.0
"""Many requests at once: a few threads, replies as they come, and no request sent once the caller has given up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from flagtriton.transport.forks import across_forks

__all__ = ["Dispatcher", "Rows", "Send"]

T = TypeVar("T")

Rows: TypeAlias = NDArray[np.int64]
"""The indices of the texts that travel in one request."""

Send: TypeAlias = Callable[[Rows, threading.Event], T]
"""Sends one request and returns what came back; stops retrying once the event is set."""


class Dispatcher:
    """A pool of threads, made when first needed. Safe to share between threads.

    Args:
        concurrency: requests in flight at once, of all callers together.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self.after_fork_in_child()
        across_forks(self)

    def after_fork_in_child(self) -> None:
        """Begin anew: a forked process has none of its parent's threads, and maybe a lock that one of them held."""
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[type[Dispatcher], tuple[int]]:
        """Pickle the size; the copy has threads of its own."""
        return type(self), (self._concurrency,)

    def replies(self, send: Send[T], requests: Sequence[Rows]) -> Generator[tuple[Rows, T], None, None]:
        """Yield each request with its reply, in the order of arrival.

        When the generator is closed, or a request fails, those not yet sent never are.
        """
        stopped = threading.Event()
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._concurrency, "flagtriton")
            waiting = {self._executor.submit(send, rows, stopped): rows for rows in requests}
        try:
            for future in as_completed(waiting):
                yield waiting.pop(future), future.result()  # popped, so that no reply is kept
        finally:
            stopped.set()
            for future in waiting:
                future.cancel()

    def release(self) -> None:
        """End the threads once their requests are answered; a later call starts new ones."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)
