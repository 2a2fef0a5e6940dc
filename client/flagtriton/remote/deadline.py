# SPDX-License-Identifier: Apache-2.0
"""The deadline of one call."""

from __future__ import annotations

import time
from dataclasses import dataclass

from flagtriton.errors import RequestTimeoutError

__all__ = ["Deadline"]


@dataclass(frozen=True)
class Deadline:
    """The end of a call, shared by all of its requests and their retries.

    Attributes:
        at: time by the monotonic clock, seconds.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def left_s(self) -> float:
        """Return the remaining seconds.

        Raises:
            RequestTimeoutError: none are left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise RequestTimeoutError("the call was not done within timeout_s; allow more, or send less")
        return left
