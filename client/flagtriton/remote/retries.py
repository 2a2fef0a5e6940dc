# SPDX-License-Identifier: Apache-2.0
"""Retries of a request: which errors, how often, and with which waits."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from flagtriton.errors import RequestTimeoutError, ServerUnavailableError, WrongServerError
from flagtriton.remote.deadline import Deadline

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["RetryPolicy"]

T = TypeVar("T")

_MAX_JITTER = 1.25
"""Upper bound of the factor on a wait that the server asks for, so that clients do not return all at once."""


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter for requests to an unavailable, overloaded or slow server.

    A wait that the server asks for is kept and extended by up to a quarter. Otherwise the n-th wait is drawn uniformly
    from 0 to `min(first_wait_s * 2**n, longest_wait_s)`.

    Attributes:
        retries: maximal number of retries; None sets no limit.
        patience_s: seconds after the first try within which retries start.
        first_wait_s: upper bound of the first wait, seconds.
        longest_wait_s: upper bound of every wait, seconds; about the time that a model needs to load.
    """

    retries: int | None = None
    patience_s: float = 300.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 5.0

    def call(
        self, function: Callable[[], T], stopped: threading.Event | None = None, deadline: Deadline | None = None
    ) -> T:
        """Return the result of `function`, which is called again after an error that may pass.

        Args:
            function: function to call.
            stopped: event that ends the waits and the retries.
            deadline: end of the call; a wait that would exceed it is not started.

        Raises:
            FlagTritonError: the last error of `function`.
            RequestTimeoutError: the deadline has passed before the first try.
        """
        import tenacity

        event = stopped or threading.Event()
        patience_s = self.patience_s if deadline is None else min(deadline.left_s(), self.patience_s)
        retrying = tenacity.Retrying(
            sleep=tenacity.sleep_using_event(event),
            stop=tenacity.stop_any(
                tenacity.stop_when_event_set(event),
                tenacity.stop_before_delay(patience_s),
                *([] if self.retries is None else [tenacity.stop_after_attempt(self.retries + 1)]),
            ),
            wait=self._wait_s,
            retry=tenacity.retry_if_exception(_is_transient),
            reraise=True,
        )
        return retrying(function)

    def _wait_s(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, ServerUnavailableError) and error.retry_after_s:
            return error.retry_after_s * random.uniform(1, _MAX_JITTER)
        max_wait_s = min(self.first_wait_s * 2 ** min(state.attempt_number - 1, 30), self.longest_wait_s)
        return random.uniform(0, max_wait_s)


def _is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed later."""
    return isinstance(error, (ServerUnavailableError, RequestTimeoutError)) and not isinstance(error, WrongServerError)
