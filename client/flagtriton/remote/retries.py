# SPDX-License-Identifier: Apache-2.0
"""How long a request is tried again, and after which waits."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from flagtriton.errors import RequestTimeoutError, ServerUnavailableError, WrongServerError
from flagtriton.transport.base import Deadline

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["RetryPolicy"]

T = TypeVar("T")

_AT_MOST_LATER = 1.25
"""A wait that the server asks for is drawn out by up to a quarter, so that not everybody comes back at once."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is tried again when the server is away, busy or late, and how long the waits are.

    What the server says counts: the seconds it names are waited, and a little longer. Else the n-th wait is drawn
    uniformly from 0 to `min(first_wait_s * 2**n, longest_wait_s)`, so that many clients do not come back at the same
    moment.

    Attributes:
        retries: further tries at most; None is as many as there is time for.
        patience_s: no try follows once so many seconds have passed since the first.
        first_wait_s: the mean of the first wait is half of this.
        longest_wait_s: as long as a model needs to come back, more or less.
    """

    retries: int | None = None
    patience_s: float = 300.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 5.0

    def call(
        self, function: Callable[[], T], stopped: threading.Event | None = None, deadline: Deadline | None = None
    ) -> T:
        """Return what `function` returns; raise its last error once it is not to be tried again.

        Args:
            function: called until it returns, or raises something else than unavailability or a time-out.
            stopped: once it is set, no wait goes on and no try follows.
            deadline: no wait goes beyond it: the last error is raised before one that would.
        """
        import tenacity

        event = stopped or threading.Event()
        left = None if deadline is None else deadline.left_s()
        retrying = tenacity.Retrying(
            sleep=tenacity.sleep_using_event(event),
            stop=tenacity.stop_any(
                tenacity.stop_when_event_set(event),
                tenacity.stop_before_delay(self.patience_s if left is None else min(left, self.patience_s)),
                *([] if self.retries is None else [tenacity.stop_after_attempt(self.retries + 1)]),
            ),
            wait=self._wait_s,
            retry=tenacity.retry_if_exception(_may_pass),
            reraise=True,
        )
        return retrying(function)

    def _wait_s(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, ServerUnavailableError) and error.retry_after_s:
            return error.retry_after_s * random.uniform(1, _AT_MOST_LATER)
        most = min(self.first_wait_s * 2 ** min(state.attempt_number - 1, 30), self.longest_wait_s)
        return random.uniform(0, most)


def _may_pass(error: BaseException) -> bool:
    """Return whether the same request may be answered later."""
    return isinstance(error, (ServerUnavailableError, RequestTimeoutError)) and not isinstance(error, WrongServerError)
