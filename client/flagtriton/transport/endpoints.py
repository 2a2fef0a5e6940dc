# SPDX-License-Identifier: Apache-2.0
"""Selection of the server for the next request: least work in flight among the available servers."""

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

_FIRST_BACKOFF_S = 0.25
_MAX_BACKOFF_S = 3.0


@dataclass(eq=False)
class Endpoint:
    """One server and its state.

    Attributes:
        address: address of the server.
        transport: connection to the server.
        in_flight: work of the requests in progress, in the unit of `Endpoints.acquire`.
        requests: number of requests in progress.
        failures: consecutive failures since the last reply.
        backoff_until: end of the backoff, by the monotonic clock.
        probe_in_flight: whether the first request after a backoff is in progress.
        checked: names of the models whose deployment equals the other servers'.
        is_removed: whether the server gets no further requests.
    """

    address: ServerAddress
    transport: Transport
    in_flight: int = 0
    requests: int = 0
    failures: int = 0
    backoff_until: float = 0.0
    probe_in_flight: bool = False
    checked: set[str] = field(default_factory=set)
    is_removed: bool = False


class Endpoints:
    """Servers that all serve the same deployment. Safe to share between threads.

    A failure puts a server into a backoff of 0.25 s, which doubles at each further failure, up to 3 s. Then a single
    request probes the server, and other requests follow once it replies.

    Args:
        open_transport: function that opens a transport to an address.
        addresses: addresses of the servers, at least one.

    Raises:
        ValueError: `addresses` is empty.
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
        """The servers that may get requests."""
        with self._lock:
            return list(self._all)

    def replace(self, addresses: Sequence[ServerAddress]) -> None:
        """Replace the servers; a server in both lists keeps its state and connection.

        Connections to removed servers are closed once their requests are done.
        """
        with self._lock:
            known = {endpoint.address: endpoint for endpoint in self._all}
            removed = [endpoint for address, endpoint in known.items() if address not in addresses]
            self._all = [
                known[address] if address in known else Endpoint(address, self._open_transport(address))
                for address in dict.fromkeys(addresses)
            ]
            for endpoint in removed:
                endpoint.is_removed = True
            idle = [endpoint.transport for endpoint in removed if not endpoint.requests]
        for transport in idle:
            transport.close()

    @contextmanager
    def acquire(self, work: int, exclude: Sequence[Endpoint] = ()) -> Iterator[Endpoint | None]:
        """Yield the server for a request, and count the request's work as in flight inside the block.

        Args:
            work: size of the request, in any unit.
            exclude: servers that have refused the request already. None is yielded if this is all of them.
        """
        with self._lock:
            endpoint = self._select(exclude)
            if endpoint is not None:
                endpoint.in_flight += work
                endpoint.requests += 1
        try:
            yield endpoint
        finally:
            if endpoint is not None:
                self._release(endpoint, work)

    def answered(self, endpoint: Endpoint) -> None:
        """Record a reply: end the server's backoff."""
        with self._lock:
            endpoint.failures = 0
            endpoint.backoff_until = 0.0

    def failed(self, endpoint: Endpoint, min_backoff_s: float | None = None) -> None:
        """Record a failure: start a backoff, and forget the checked models.

        Args:
            endpoint: the server that failed.
            min_backoff_s: wait that the server asked for, seconds; None without one.
        """
        now = time.monotonic()
        with self._lock:
            endpoint.checked.clear()
            if endpoint.backoff_until > now:  # a concurrent request has recorded the failure
                return
            wait_s = min(_FIRST_BACKOFF_S * 2**endpoint.failures, _MAX_BACKOFF_S) * random.uniform(1, 1.25)
            endpoint.failures = min(endpoint.failures + 1, 30)
            endpoint.backoff_until = now + max(wait_s, min_backoff_s or 0.0)

    def _select(self, exclude: Sequence[Endpoint]) -> Endpoint | None:
        candidates = [endpoint for endpoint in self._all if endpoint not in exclude]
        if not candidates:
            return None
        now = time.monotonic()
        available = [e for e in candidates if e.backoff_until <= now and not (e.failures and e.probe_in_flight)]
        if not available:  # all back off: use the server whose backoff ends first
            return min(candidates, key=lambda endpoint: endpoint.backoff_until)
        turn = next(self._turns)
        # Round-robin among servers with equally little work.
        count = len(available)
        endpoint = available[min(range(count), key=lambda i: (available[i].in_flight, (i - turn) % count))]
        endpoint.probe_in_flight = bool(endpoint.failures)
        return endpoint

    def _release(self, endpoint: Endpoint, work: int) -> None:
        with self._lock:
            endpoint.in_flight -= work
            endpoint.requests -= 1
            endpoint.probe_in_flight = False
            is_unused = endpoint.is_removed and not endpoint.requests
        if is_unused:
            endpoint.transport.close()
