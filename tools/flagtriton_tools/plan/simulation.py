# SPDX-License-Identifier: Apache-2.0
"""N servers behind a balancer, simulated event by event: queueing, token-budget batches, failures, scale-out.

What a server does is simplified to what settles its queues: one request after another is tokenised, then waits for the
encoder, which takes as many as fit its token budget and needs `pass_s` and a time for each token for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import simpy
from numpy.typing import NDArray

__all__ = ["Failure", "Outcome", "ScaleOut", "Server", "Traffic", "simulate"]

_Steps: TypeAlias = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Server:
    """What one server does.

    Attributes:
        tokens_per_s: of its encoder, in full passes.
        token_budget: tokens of one turn of the encoder, if its first request has no more by itself.
        pass_s: what a turn costs beside its tokens.
        work_s: likewise, for each of its requests: all that the same processor does for one.
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
    """

    tokens: NDArray[np.int64]
    rate: float = 0.0
    callers: int = 0


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


def simulate(
    server: Server,
    servers: int,
    traffic: Traffic,
    *,
    seconds: float,
    warm_up_s: float = 0.0,
    failures: Sequence[Failure] = (),
    scale_out: ScaleOut | None = None,
    seed: int = 0,
) -> Outcome:
    """Return what servers do with traffic.

    Args:
        server: what each of them does.
        servers: how many there are at first.
        traffic: either of a rate or of callers.
        seconds: watched.
        warm_up_s: before that, unwatched.
        failures: that happen.
        scale_out: None adds no server.
        seed: of arrivals.

    Raises:
        ValueError: there is no server, or traffic of no kind or of both.
    """
    if servers < 1 or (traffic.rate > 0) == (traffic.callers > 0):
        raise ValueError("a simulation needs a server at least, and traffic of a rate or of callers")
    world = _World(server, servers, warm_up_s, seed)
    environment = world.environment
    if traffic.callers:
        for number in range(traffic.callers):
            environment.process(world.caller(traffic, number))
    else:
        environment.process(world.arrivals(traffic))
    for failure in failures:
        environment.process(world.fail(failure))
    if scale_out is not None:
        environment.process(world.scale(scale_out))
    environment.run(until=warm_up_s + seconds)
    return world.outcome(seconds)


@dataclass(eq=False)
class _Request:
    tokens: int
    came_at: float
    done: simpy.Event | None


@dataclass(eq=False)
class _Replica:
    """One server's queues; `generation` counts its lives."""

    wake: simpy.Event
    up: bool = True
    generation: int = 0
    outstanding: int = 0
    tokenizer_free_at: float = 0.0
    waiting: deque[_Request] = field(default_factory=deque)
    held: set[_Request] = field(default_factory=set)
    busy_s: float = 0.0


class _World:
    def __init__(self, server: Server, servers: int, warm_up_s: float, seed: int) -> None:
        self.environment = simpy.Environment()
        self._server = server
        self._warm_up_s = warm_up_s
        # Two, so that the same traffic comes whatever the balancer draws.
        self._gaps, self._choices = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))
        self._latencies: list[float] = []
        self._waits: list[float] = []
        self._tokens = 0
        self._repeated = 0
        self._coming = 0
        self._unsent: list[_Request] = []
        self._replicas: list[_Replica] = []
        for _ in range(servers):
            self._add()

    def outcome(self, seconds: float) -> Outcome:
        busy = sum(replica.busy_s for replica in self._replicas) / len(self._replicas) / seconds
        latencies = np.array(self._latencies)
        return Outcome(latencies, self._tokens, seconds, busy, len(self._replicas), self._repeated)

    # What comes.

    def arrivals(self, traffic: Traffic) -> _Steps:
        number = 0
        while True:
            yield self.environment.timeout(self._gaps.exponential(1 / traffic.rate))
            self._send(_Request(int(traffic.tokens[number % len(traffic.tokens)]), self.environment.now, None))
            number += 1

    def caller(self, traffic: Traffic, number: int) -> _Steps:
        place = number
        while True:
            done = self.environment.event()
            tokens = int(traffic.tokens[place % len(traffic.tokens)])
            self._send(_Request(tokens, self.environment.now, done))
            yield done
            place += traffic.callers

    # The balancer: the least work in flight, as the SDK's.

    def _send(self, request: _Request) -> None:
        up = [replica for replica in self._replicas if replica.up]
        if not up:
            self._unsent.append(request)
            return
        least = min(replica.outstanding for replica in up)
        candidates = [replica for replica in up if replica.outstanding == least]
        replica = candidates[int(self._choices.integers(len(candidates)))]
        replica.outstanding += request.tokens
        replica.held.add(request)
        self.environment.process(self._tokenise(replica, request))

    # One server.

    def _add(self) -> None:
        replica = _Replica(self.environment.event())
        self._replicas.append(replica)
        self.environment.process(self._encode(replica))

    def _tokenise(self, replica: _Replica, request: _Request) -> _Steps:
        now, generation = self.environment.now, replica.generation
        seconds = self._server.request_s + request.tokens / self._server.request_tokens_per_s
        replica.tokenizer_free_at = max(now, replica.tokenizer_free_at) + seconds
        yield self.environment.timeout(replica.tokenizer_free_at - now)
        if replica.generation == generation:
            replica.waiting.append(request)
            _wake(replica)

    def _encode(self, replica: _Replica) -> _Steps:
        generation = replica.generation
        while replica.generation == generation:
            if not replica.waiting:
                replica.wake = self.environment.event()
                yield replica.wake
                continue
            turn = _turn(replica.waiting, self._server.token_budget)
            tokens = sum(request.tokens for request in turn)
            now = self.environment.now
            self._waits += [now - request.came_at for request in turn]
            seconds = self._server.pass_s + len(turn) * self._server.work_s + tokens / self._server.tokens_per_s
            yield self.environment.timeout(seconds)
            if replica.generation != generation:
                return
            replica.busy_s += min(seconds, max(0.0, self.environment.now - self._warm_up_s))
            for request in turn:
                self._answer(replica, request)

    def _answer(self, replica: _Replica, request: _Request) -> None:
        replica.outstanding -= request.tokens
        replica.held.discard(request)
        at = self.environment.now + self._server.fixed_s
        if at >= self._warm_up_s:
            self._latencies.append(at - request.came_at)
            self._tokens += request.tokens
        if request.done is not None:
            self.environment.process(self._tell(request.done))

    def _tell(self, done: simpy.Event) -> _Steps:
        yield self.environment.timeout(self._server.fixed_s)
        done.succeed()

    # What goes wrong, and what is done about it.

    def fail(self, failure: Failure) -> _Steps:
        yield self.environment.timeout(failure.at_s)
        replica = self._replicas[failure.server]
        lost = list(replica.held)
        replica.up = False
        replica.generation += 1
        replica.outstanding = 0
        replica.held.clear()
        replica.waiting.clear()
        _wake(replica)
        self._repeated += len(lost)
        for request in lost:  # their callers notice at once, and send them to the others
            self._send(request)
        yield self.environment.timeout(failure.away_s)
        replica.up = True
        replica.tokenizer_free_at = self.environment.now
        self.environment.process(self._encode(replica))
        self._send_unsent()

    def scale(self, policy: ScaleOut) -> _Steps:
        while True:
            self._waits.clear()
            yield self.environment.timeout(policy.every_s)
            mean = sum(self._waits) / len(self._waits) if self._waits else 0.0
            if mean > policy.wait_s and len(self._replicas) + self._coming < policy.most:
                self._coming += 1
                self.environment.process(self._come(policy.delay_s))

    def _come(self, delay_s: float) -> _Steps:
        yield self.environment.timeout(delay_s)
        self._coming -= 1
        self._add()
        self._send_unsent()

    def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        for request in unsent:
            self._send(request)


def _wake(replica: _Replica) -> None:
    if not replica.wake.triggered:
        replica.wake.succeed()


def _turn(waiting: deque[_Request], budget: int) -> list[_Request]:
    """Take the requests of one turn: as many as fit the budget, and one at least."""
    turn = [waiting.popleft()]
    tokens = turn[0].tokens
    while waiting and tokens + waiting[0].tokens <= budget:
        turn.append(waiting.popleft())
        tokens += turn[-1].tokens
    return turn
