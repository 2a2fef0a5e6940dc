# SPDX-License-Identifier: Apache-2.0
"""Which of several servers gets the next request: the one with the least in flight, of those that answer."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from flagtriton.transport.base import ServerAddress, Transport

__all__ = ["Endpoint", "Endpoints"]

_FIRST_REST_S = 0.25
_LONGEST_REST_S = 3.0


@dataclass(eq=False)
class Endpoint:
    """One server, and how it has done lately.

    Attributes:
        address: where the server is.
        in_flight: work of the requests that it has now.
        requests: how many these are.
        failures: since it last answered.
        rests_until: it is spared till then, by the monotonic clock.
        is_tried: a first request since it rested is on its way.
        checked: models that it is known to serve as the others do.
        is_dropped: it gets no further request.
    """

    address: ServerAddress
    transport: Transport
    in_flight: int = 0
    requests: int = 0
    failures: int = 0
    rests_until: float = 0.0
    is_tried: bool = False
    checked: set[str] = field(default_factory=set)
    is_dropped: bool = False


class Endpoints:
    """Servers that all serve the same. Safe to share between threads.

    One that fails rests for 0.25 s, and at each further failure twice as long, up to 3 s. Then a single request is
    tried on it, and the others follow if it answers that.

    Args:
        open_transport: to the server at an address.
        addresses: of the servers, at least one.

    Raises:
        ValueError: there is none.
    """

    def __init__(
        self, open_transport: Callable[[ServerAddress], Transport], addresses: Sequence[ServerAddress]
    ) -> None:
        if not addresses:
            raise ValueError("there is no server to send requests to")
        self._lock = threading.Lock()
        self._turns = itertools.count()
        self._open_transport = open_transport
        self._all = [Endpoint(address, open_transport(address)) for address in dict.fromkeys(addresses)]

    @property
    def all(self) -> list[Endpoint]:
        """Those that may get requests."""
        with self._lock:
            return list(self._all)

    def replace(self, addresses: Sequence[ServerAddress]) -> None:
        """Take these servers in place of those before; one that is among both stays as it stands.

        The others' connections are closed once their requests are answered.
        """
        with self._lock:
            known = {endpoint.address: endpoint for endpoint in self._all}
            gone = [endpoint for address, endpoint in known.items() if address not in addresses]
            self._all = [
                known[address] if address in known else Endpoint(address, self._open_transport(address))
                for address in dict.fromkeys(addresses)
            ]
            for endpoint in gone:
                endpoint.is_dropped = True
            idle = [endpoint.transport for endpoint in gone if not endpoint.requests]
        for transport in idle:
            transport.close()

    @contextmanager
    def next_one(self, work: int, besides: Sequence[Endpoint] = ()) -> Iterator[Endpoint | None]:
        """Yield the server that is to get a request, which counts as its own until the block ends.

        Args:
            work: how much the request is, by whatever measure.
            besides: servers that have had it already. None is yielded once that is all of them.
        """
        with self._lock:
            endpoint = self._chosen(besides)
            if endpoint is not None:
                endpoint.in_flight += work
                endpoint.requests += 1
        try:
            yield endpoint
        finally:
            if endpoint is not None:
                self._give_back(endpoint, work)

    def answered(self, endpoint: Endpoint) -> None:
        """Note that a server does its work."""
        with self._lock:
            endpoint.failures = 0
            endpoint.rests_until = 0.0

    def failed(self, endpoint: Endpoint, rest_s: float | None = None) -> None:
        """Let a server rest, so long at least if it said how long; what serves there may be another when it is back."""
        now = time.monotonic()
        with self._lock:
            endpoint.checked.clear()
            if endpoint.rests_until > now:  # others have noticed at the same time
                return
            wait_s = min(_FIRST_REST_S * 2**endpoint.failures, _LONGEST_REST_S) * random.uniform(1, 1.25)
            endpoint.failures = min(endpoint.failures + 1, 30)
            endpoint.rests_until = now + max(wait_s, rest_s or 0.0)

    def _chosen(self, besides: Sequence[Endpoint]) -> Endpoint | None:
        left = [endpoint for endpoint in self._all if endpoint not in besides]
        if not left:
            return None
        now = time.monotonic()
        awake = [e for e in left if e.rests_until <= now and not (e.failures and e.is_tried)]
        if not awake:  # all rest: the one that is soonest back is asked nevertheless
            return min(left, key=lambda endpoint: endpoint.rests_until)
        turn = next(self._turns)
        # Those with equally little take turns.
        chosen = awake[min(range(len(awake)), key=lambda at: (awake[at].in_flight, (at - turn) % len(awake)))]
        chosen.is_tried = bool(chosen.failures)
        return chosen

    def _give_back(self, endpoint: Endpoint, work: int) -> None:
        with self._lock:
            endpoint.in_flight -= work
            endpoint.requests -= 1
            endpoint.is_tried = False
            is_over = endpoint.is_dropped and not endpoint.requests
        if is_over:
            endpoint.transport.close()
