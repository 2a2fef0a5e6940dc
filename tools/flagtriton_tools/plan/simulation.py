# SPDX-License-Identifier: Apache-2.0
"""Discrete-event simulation of N servers behind a balancer: queues, token-budget batches, failures, scale-out.

The model of a server has only the parts that determine its queues. Its tokenizer takes one request after another, and
the request then waits for the encoder. The encoder takes as many requests as fit its token budget. A turn lasts
`pass_s` plus a time for each token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import simpy
from numpy.typing import NDArray

from flagtriton_tools.plan.scenario import Failure, Outcome, ScaleOut, Server, Traffic

__all__ = ["simulate"]

_Steps: TypeAlias = Generator[simpy.Event, Any, None]


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
    """Simulate servers under traffic, and return the result.

    Args:
        server: rates and fixed times of each server.
        servers: number of servers at the start.
        traffic: traffic with a rate, callers or arrival times.
        seconds: length of the measured period.
        warm_up_s: length of the period before it, which is not measured, seconds.
        failures: failures of servers.
        scale_out: policy that adds servers; None adds none.
        seed: seed of arrivals and of the balancer's choices.

    Raises:
        ValueError: there is no server, or the traffic is of no kind or of several.
    """
    if servers < 1 or traffic.kinds != 1:
        raise ValueError("a simulation needs a server at least, and traffic of a rate, of callers or of moments")
    world = _World(server, servers, warm_up_s, seed)
    environment = world.environment
    if traffic.callers:
        for number in range(traffic.callers):
            environment.process(world.caller(traffic, number))
    elif traffic.moments_s is not None:
        environment.process(world.trace(traffic, traffic.moments_s))
    else:
        environment.process(world.arrivals(traffic))
    for failure in failures:
        environment.process(world.fail(failure))
    if scale_out is not None:
        environment.process(world.scale(scale_out))
    environment.run(until=None if traffic.moments_s is not None and scale_out is None else warm_up_s + seconds)
    return world.outcome(seconds)


@dataclass(eq=False)
class _Request:
    tokens: int
    enqueued_at: float
    done: simpy.Event | None


@dataclass(eq=False)
class _Replica:
    """Queues of one server. `generation` counts its restarts."""

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
        # Two generators, so that the traffic does not depend on the choices of the balancer.
        self._gaps, self._choices = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))
        self._latencies: list[float] = []
        self._waits: list[float] = []
        self._tokens = 0
        self._repeated = 0
        self._coming = 0
        self._counts_by_arrival = False
        self._unsent: list[_Request] = []
        self._replicas: list[_Replica] = []
        for _ in range(servers):
            self._add()

    def outcome(self, seconds: float) -> Outcome:
        busy = sum(replica.busy_s for replica in self._replicas) / len(self._replicas) / seconds
        latencies = np.array(self._latencies)
        return Outcome(latencies, self._tokens, seconds, busy, len(self._replicas), self._repeated)

    # Arrivals.

    def arrivals(self, traffic: Traffic) -> _Steps:
        number = 0
        while True:
            yield self.environment.timeout(self._gaps.exponential(1 / traffic.rate))
            self._send(_Request(int(traffic.tokens[number % len(traffic.tokens)]), self.environment.now, None))
            number += 1

    def trace(self, traffic: Traffic, moments_s: NDArray[np.float64]) -> _Steps:
        self._counts_by_arrival = True
        for number, moment_s in enumerate(moments_s):
            yield self.environment.timeout(max(0.0, float(moment_s) - self.environment.now))
            self._send(_Request(int(traffic.tokens[number % len(traffic.tokens)]), self.environment.now, None))

    def caller(self, traffic: Traffic, number: int) -> _Steps:
        place = number
        while True:
            done = self.environment.event()
            tokens = int(traffic.tokens[place % len(traffic.tokens)])
            self._send(_Request(tokens, self.environment.now, done))
            yield done
            place += traffic.callers

    # The balancer: it sends to a server with the fewest tokens in flight, like the SDK's.

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
            self._waits += [now - request.enqueued_at for request in turn]
            yield self.environment.timeout(self._server.pass_s + tokens / self._server.tokens_per_s)
            for request in turn:  # one after another, so that a caller's next request may join the next turn
                if self._server.work_s:
                    yield self.environment.timeout(self._server.work_s)
                if replica.generation != generation:
                    return
                self._answer(replica, request)
            replica.busy_s += max(0.0, self.environment.now - max(now, self._warm_up_s))

    def _answer(self, replica: _Replica, request: _Request) -> None:
        replica.outstanding -= request.tokens
        replica.held.discard(request)
        at = self.environment.now + self._server.fixed_s
        if (request.enqueued_at if self._counts_by_arrival else at) >= self._warm_up_s:
            self._latencies.append(at - request.enqueued_at)
            self._tokens += request.tokens
        if request.done is not None:
            self.environment.process(self._tell(request.done))

    def _tell(self, done: simpy.Event) -> _Steps:
        yield self.environment.timeout(self._server.fixed_s)
        done.succeed()

    # Failures and scale-out.

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
        for request in lost:  # callers notice at once, and send again to other servers
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
    """Take the requests of one turn: the first one, and more while they fit the budget."""
    turn = [waiting.popleft()]
    tokens = turn[0].tokens
    while waiting and tokens + waiting[0].tokens <= budget:
        turn.append(waiting.popleft())
        tokens += turn[-1].tokens
    return turn
