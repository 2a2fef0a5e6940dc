# SPDX-License-Identifier: Apache-2.0
"""What is simulated: servers, what comes to them, what goes wrong; and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Failure", "Outcome", "ScaleOut", "Server", "Traffic"]


@dataclass(frozen=True)
class Server:
    """What one server does.

    Attributes:
        tokens_per_s: of its encoder, in full passes.
        token_budget: tokens of one turn of the encoder, if its first request has no more by itself.
        pass_s: what a turn costs beside its tokens.
        work_s: likewise, for each of its requests, one after another before it is answered: all that the same
            processor does for one.
        request_s: what a request keeps the tokenizer busy for, one after another; `request_tokens_per_s` beside that.
        request_tokens_per_s: how fast texts are tokenised.
        fixed_s: what a request takes beside waiting and work: transport, pooling.
    """

    tokens_per_s: float
    token_budget: int
    pass_s: float = 0.0
    work_s: float = 0.0
    request_s: float = 0.0
    request_tokens_per_s: float = float("inf")
    fixed_s: float = 0.0


@dataclass(frozen=True)
class Traffic:
    """What comes.

    Attributes:
        tokens: `[N]` of the requests, in the order they come; begun anew at its end.
        rate: requests a second, at moments that know nothing of each other (Poisson); 0 with `callers`.
        callers: each sends its next request once it has the answer to its last; 0 with `rate`.
        moments_s: `[N]`, ascending, in place of both: when each request comes, as it was seen somewhere. All of them
            are answered, and those count that came behind the warm-up.
    """

    tokens: NDArray[np.int64]
    rate: float = 0.0
    callers: int = 0
    moments_s: NDArray[np.float64] | None = None

    @property
    def kinds(self) -> int:
        """Of how many kinds it is; one is right."""
        return (self.rate > 0) + (self.callers > 0) + (self.moments_s is not None)


@dataclass(frozen=True)
class Failure:
    """A server that is away for a while, with all requests it has."""

    at_s: float
    server: int
    away_s: float


@dataclass(frozen=True)
class ScaleOut:
    """Servers that are added where requests wait.

    Attributes:
        wait_s: a mean wait of the last `every_s` seconds' requests above which one is added.
        delay_s: until it serves.
        most: servers in all.
    """

    wait_s: float
    delay_s: float
    most: int
    every_s: float = 15.0


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        latencies_s: of the requests answered, behind the warm-up.
        tokens: of them together.
        seconds: that were watched.
        busy: which part of the time encoders worked, the mean of the servers.
        servers: at the end.
        repeated: requests that were sent again, as their server went away.
    """

    latencies_s: NDArray[np.float64]
    tokens: int
    seconds: float
    busy: float
    servers: int
    repeated: int

    @property
    def requests_per_s(self) -> float:
        """Requests answered."""
        return len(self.latencies_s) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Tokens of their texts."""
        return self.tokens / self.seconds

    def percentile_s(self, percent: float) -> float:
        """Return within which time so many of a hundred were answered; nan if none was."""
        return float(np.percentile(self.latencies_s, percent)) if len(self.latencies_s) else float("nan")
