# SPDX-License-Identifier: Apache-2.0
"""Input and result of a simulation: servers, traffic, failures and latencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Failure", "Outcome", "ScaleOut", "Server", "Traffic"]


@dataclass(frozen=True)
class Server:
    """Rates and fixed times of one server.

    Attributes:
        tokens_per_s: rate of its encoder in full passes.
        token_budget: most tokens of one turn of the encoder. A first request with more tokens still runs.
        pass_s: fixed time of a turn in addition to its tokens, seconds.
        work_s: time of each request of a turn before it is answered, one after another, seconds. It stands for all work
            that the encoder's processor does for a request.
        request_s: fixed time of a request in the tokenizer, one after another, seconds. The time for its tokens at
            `request_tokens_per_s` is added.
        request_tokens_per_s: rate of the tokenizer.
        fixed_s: time of a request in addition to waiting and work, such as transport and pooling, seconds.
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
    """Requests that arrive at the servers.

    Attributes:
        tokens: `[N]` tokens of the requests in their order; repeated from the start at its end.
        rate: requests per second with Poisson arrivals; 0 with `callers`.
        callers: number of callers in a closed loop. Each sends its next request after the last answer; 0 with `rate`.
        moments_s: `[N]` ascending arrival times of a recorded trace, in place of both. All requests are answered, and
            those that arrive after the warm-up count.
    """

    tokens: NDArray[np.int64]
    rate: float = 0.0
    callers: int = 0
    moments_s: NDArray[np.float64] | None = None

    @property
    def kinds(self) -> int:
        """Number of kinds of traffic that are set; exactly one is valid."""
        return (self.rate > 0) + (self.callers > 0) + (self.moments_s is not None)


@dataclass(frozen=True)
class Failure:
    """A server that is away for `away_s` seconds, and loses all requests it has."""

    at_s: float
    server: int
    away_s: float


@dataclass(frozen=True)
class ScaleOut:
    """Policy that adds servers while requests wait.

    Attributes:
        wait_s: mean wait of the requests in the last `every_s` seconds above which a server is added, seconds.
        delay_s: time until a new server serves, seconds.
        most: maximum number of servers.
    """

    wait_s: float
    delay_s: float
    most: int
    every_s: float = 15.0


@dataclass
class Outcome:
    """Result of a simulation.

    Attributes:
        latencies_s: latencies of the requests that were answered after the warm-up.
        tokens: total tokens of those requests.
        seconds: length of the measured period after the warm-up.
        busy: share of the time in which encoders worked, as the mean of the servers, 0 to 1.
        servers: number of servers at the end.
        repeated: number of requests that were sent again because their server went away.
    """

    latencies_s: NDArray[np.float64]
    tokens: int
    seconds: float
    busy: float
    servers: int
    repeated: int

    @property
    def requests_per_s(self) -> float:
        """Requests answered per second."""
        return len(self.latencies_s) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the answered requests per second."""
        return self.tokens / self.seconds

    def percentile_s(self, percent: float) -> float:
        """Return a percentile of the latency in seconds; nan if no request was answered."""
        return float(np.percentile(self.latencies_s, percent)) if len(self.latencies_s) else float("nan")
