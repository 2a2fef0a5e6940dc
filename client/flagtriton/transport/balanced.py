# SPDX-License-Identifier: Apache-2.0
"""Several servers that serve the same, as one: each request goes where the least work is in flight."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from flagtriton.errors import (
    DeploymentMismatchError,
    DeploymentWarning,
    FlagTritonError,
    ModelNotServedError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from flagtriton.protocol.options.checks import OptionValue
from flagtriton.transport.base import InferenceReply, ModelConfig, ServerAddress, Transport
from flagtriton.transport.endpoints import Endpoint, Endpoints

__all__ = ["BalancedTransport"]

T = TypeVar("T")

_LOOK_AGAIN_S = 10.0
_WORK_OF_A_REQUEST = 256
"""What a request costs beside its texts, in bytes of text."""


class BalancedTransport:
    """A `Transport` over several others.

    A request that one server refuses or does not answer goes to the next at once; only when none of them takes it does
    the caller wait. A server that fails is spared for a while, and asked again. Before its first request, and before
    its first one after a failure, a server must serve the model as the others do.

    Args:
        open_transport: to the server at an address.
        lookup: the addresses of the servers that there are now, at least one; asked every 10 s, as where a name stands
            for several that come and go.

    Raises:
        OSError: `lookup` fails.
        ValueError: it finds none.
    """

    def __init__(
        self, open_transport: Callable[[ServerAddress], Transport], lookup: Callable[[], Sequence[ServerAddress]]
    ) -> None:
        self._open_transport = open_transport
        self._lookup = lookup
        self._endpoints = Endpoints(open_transport, lookup())
        self._configs: dict[str, ModelConfig] = {}
        self._looking = threading.Lock()
        self._look_at = time.monotonic() + _LOOK_AGAIN_S

    def __reduce__(self) -> tuple[type[BalancedTransport], tuple[Any, ...]]:
        """Pickle what new connections need; the copy knows nothing of failures."""
        return type(self), (self._open_transport, self._lookup)

    @property
    def address(self) -> str:
        """The servers' URLs, for messages."""
        return ", ".join(endpoint.transport.address for endpoint in self._endpoints.all)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        parameters: Mapping[str, OptionValue],
        timeout_s: float | None = None,
    ) -> InferenceReply:
        """Run one request on the server with the least to do."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s

        def ask(endpoint: Endpoint) -> InferenceReply:
            self._check(endpoint, model)
            left_s = None if deadline is None else max(0.001, deadline - time.monotonic())
            return endpoint.transport.infer(model, inputs, outputs, parameters, left_s)

        return self._first(ask, _work(inputs))

    def model_config(self, model: str) -> ModelConfig:
        """Return a model's configuration, by which the servers are compared from then on."""
        config = self._first(lambda endpoint: endpoint.transport.model_config(model))
        self._configs[model] = config
        return config

    def ready_models(self) -> list[str]:
        """Return the names of all models that are ready on the first server that answers."""
        return self._first(lambda endpoint: endpoint.transport.ready_models())

    def close(self) -> None:
        """Close every connection."""
        for endpoint in self._endpoints.all:
            endpoint.transport.close()

    def _first(self, ask: Callable[[Endpoint], T], work: int = _WORK_OF_A_REQUEST) -> T:
        """Return the answer of the first server that gives one; raise the last server's refusal where none does."""
        self._look_again()
        had: list[Endpoint] = []
        refusal: FlagTritonError | None = None
        while True:
            with self._endpoints.next_one(work, had) as endpoint:
                if endpoint is None:
                    assert refusal is not None
                    raise refusal
                try:
                    answer = ask(endpoint)
                except (ServerUnavailableError, ModelNotServedError) as error:
                    self._endpoints.failed(endpoint, getattr(error, "retry_after_s", None))
                    # What is there on any other server counts for more than what is not there on this one.
                    refusal = error if refusal is None or isinstance(refusal, ModelNotServedError) else refusal
                except RequestTimeoutError:
                    self._endpoints.failed(endpoint)
                    raise
                except FlagTritonError:  # an answer, too
                    self._endpoints.answered(endpoint)
                    raise
                else:
                    self._endpoints.answered(endpoint)
                    return answer
                had.append(endpoint)

    def _check(self, endpoint: Endpoint, model: str) -> None:
        """See to it that a server serves a model as the others do.

        Raises:
            ServerUnavailableError: it serves another under that name.
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

    def _look_again(self) -> None:
        """Ask for the servers that there are now, if it is time; while one thread does, the others go on."""
        if time.monotonic() < self._look_at or not self._looking.acquire(blocking=False):
            return
        try:
            self._look_at = time.monotonic() + _LOOK_AGAIN_S
            found = self._lookup()
            if found:
                self._endpoints.replace(found)
        except OSError:  # the name server is away: those that are known will do
            pass
        finally:
            self._looking.release()


def _work(inputs: Mapping[str, NDArray[Any]]) -> int:
    """Return how much a request is: the bytes of its texts, as it costs about as much as they have tokens."""
    texts = (row for array in inputs.values() if array.dtype == object for row in array.reshape(-1))
    return _WORK_OF_A_REQUEST + sum(map(len, texts))
