# SPDX-License-Identifier: Apache-2.0
"""A thread pool that keeps several requests of one call in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeAlias, TypeVar

from flagtriton.remote.planning import Rows
from flagtriton.transport.forks import notify_on_fork

__all__ = ["Dispatcher"]

T = TypeVar("T")

Send: TypeAlias = Callable[[Rows, threading.Event], T]
"""Sends the request for some rows and returns the reply; must stop its retries once the event is set."""


class Dispatcher:
    """A thread pool, started by the first call. Safe to share between threads.

    Args:
        concurrency: requests in flight at once, over all callers.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self.after_fork_in_child()
        notify_on_fork(self)

    def after_fork_in_child(self) -> None:
        """Reset the pool: a child has none of its parent's threads, and one of them may have held the lock."""
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[type[Dispatcher], tuple[int]]:
        """Pickle the concurrency; the copy starts its own threads."""
        return type(self), (self._concurrency,)

    def replies(self, send: Send[T], requests: Sequence[Rows]) -> Generator[tuple[Rows, T], None, None]:
        """Yield the rows of each request with its reply, in order of arrival.

        Closing the generator, or an error of one request, cancels the requests that have not been sent.
        """
        stopped = threading.Event()
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._concurrency, "flagtriton")
            pending = {self._executor.submit(send, rows, stopped): rows for rows in requests}
        try:
            for future in as_completed(pending):
                yield pending.pop(future), future.result()  # removed, so that the reply can be freed
        finally:
            stopped.set()
            for future in pending:
                future.cancel()

    def release(self) -> None:
        """End the threads once their requests are done; a later call starts new ones."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)
