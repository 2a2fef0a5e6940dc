# SPDX-License-Identifier: Apache-2.0
"""One transport over several servers: each request goes to the server with the least work in flight."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from flagtriton.errors import (
    DeploymentMismatchError,
    DeploymentWarning,
    FlagTritonError,
    ModelNotServedError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from flagtriton.transport.base import InferenceReply, InferRequest, ModelConfig, ServerAddress, Transport
from flagtriton.transport.endpoints import Endpoint, Endpoints

__all__ = ["BalancedTransport"]

T = TypeVar("T")

_LOOKUP_INTERVAL_S = 10.0
_REQUEST_OVERHEAD = 256
"""Cost of a request in addition to its texts, in bytes of text."""

_MIN_TIMEOUT_S = 0.001


class BalancedTransport:
    """A `Transport` over several others.

    A request that one server refuses goes to the next at once; the caller gets the refusal only when no server takes
    the request. A server that fails backs off. Before its first request, and before the first one after a failure,
    its deployment is compared with the other servers'.

    Args:
        open_transport: function that opens a transport to an address.
        lookup: function that returns the servers' current addresses; called every 10 s.

    Raises:
        OSError: `lookup` fails.
        ValueError: `lookup` returns no address.
    """

    def __init__(
        self, open_transport: Callable[[ServerAddress], Transport], lookup: Callable[[], Sequence[ServerAddress]]
    ) -> None:
        self._open_transport = open_transport
        self._lookup = lookup
        self._endpoints = Endpoints(open_transport, lookup())
        self._configs: dict[str, ModelConfig] = {}
        self._lookup_lock = threading.Lock()
        self._next_lookup_at = time.monotonic() + _LOOKUP_INTERVAL_S

    def __reduce__(self) -> tuple[type[BalancedTransport], tuple[Any, ...]]:
        """Pickle the constructor's arguments; the copy opens its own connections."""
        return type(self), (self._open_transport, self._lookup)

    @property
    def address(self) -> str:
        """The servers' URLs, for messages."""
        return ", ".join(endpoint.transport.address for endpoint in self._endpoints.all)

    def infer(self, request: InferRequest) -> InferenceReply:
        """Run one request on the server with the least work in flight."""
        ends_at = None if request.timeout_s is None else time.monotonic() + request.timeout_s

        def send(endpoint: Endpoint) -> InferenceReply:
            self._check(endpoint, request.model)
            left_s = None if ends_at is None else max(_MIN_TIMEOUT_S, ends_at - time.monotonic())
            return endpoint.transport.infer(replace(request, timeout_s=left_s))

        return self._first_reply(send, _work(request))

    def model_config(self, model: str) -> ModelConfig:
        """Return a model's configuration, with which every server's is compared from now on."""
        config = self._first_reply(lambda endpoint: endpoint.transport.model_config(model))
        self._configs[model] = config
        return config

    def ready_models(self) -> list[str]:
        """Return the names of all ready models on the first server that replies."""
        return self._first_reply(lambda endpoint: endpoint.transport.ready_models())

    def close(self) -> None:
        """Close every connection."""
        for endpoint in self._endpoints.all:
            endpoint.transport.close()

    def _first_reply(self, send: Callable[[Endpoint], T], work: int = _REQUEST_OVERHEAD) -> T:
        """Return the first server's reply; raise a refusal if no server replies."""
        self._refresh_servers()
        refused: list[Endpoint] = []
        refusal: FlagTritonError | None = None
        while True:
            with self._endpoints.acquire(work, exclude=refused) as endpoint:
                if endpoint is None:
                    assert refusal is not None
                    raise refusal
                try:
                    reply = send(endpoint)
                except (ServerUnavailableError, ModelNotServedError) as error:
                    self._endpoints.failed(endpoint, getattr(error, "retry_after_s", None))
                    # A refusal of a server that has the model says more than a missing model.
                    refusal = error if refusal is None or isinstance(refusal, ModelNotServedError) else refusal
                except RequestTimeoutError:
                    self._endpoints.failed(endpoint)
                    raise
                except FlagTritonError:  # the server has replied
                    self._endpoints.answered(endpoint)
                    raise
                else:
                    self._endpoints.answered(endpoint)
                    return reply
                refused.append(endpoint)

    def _check(self, endpoint: Endpoint, model: str) -> None:
        """Compare a server's deployment of a model with the other servers'.

        Raises:
            DeploymentMismatchError: the only server serves another deployment than before.
            ServerUnavailableError: this server serves another deployment than the others.
        """
        if model in endpoint.checked:
            return
        config = endpoint.transport.model_config(model)
        known = self._configs.setdefault(model, config)
        if config.parameters != known.parameters:
            different = sorted(
                key
                for key in {*config.parameters, *known.parameters}
                if config.parameters.get(key) != known.parameters.get(key)
            )
            message = (
                f"{endpoint.transport.address} serves another {model!r} than {self.address} do: {different[0]} is "
                f"{config.parameters.get(different[0])!r}, not {known.parameters.get(different[0])!r}"
            )
            if len(self._endpoints.all) == 1:
                raise DeploymentMismatchError(message)
            warnings.warn(f"{message}; it gets no requests", DeploymentWarning, stacklevel=2)
            raise ServerUnavailableError(message)
        endpoint.checked.add(model)

    def _refresh_servers(self) -> None:
        """Look the servers up again if 10 s have passed; one thread does so while the others go on."""
        if time.monotonic() < self._next_lookup_at or not self._lookup_lock.acquire(blocking=False):
            return
        try:
            self._next_lookup_at = time.monotonic() + _LOOKUP_INTERVAL_S
            addresses = self._lookup()
            if addresses:
                self._endpoints.replace(addresses)
        except OSError:  # the name server does not reply: keep the known addresses
            pass
        finally:
            self._lookup_lock.release()


def _work(request: InferRequest) -> int:
    """Return the size of a request in bytes of text, which is about proportional to its tokens."""
    texts = (row for array in request.inputs.values() if array.dtype == object for row in array.reshape(-1))
    return _REQUEST_OVERHEAD + sum(map(len, texts))
