# SPDX-License-Identifier: Apache-2.0
"""Triton over HTTP, with binary tensors. tritonclient's HTTP client is not thread-safe: each thread has its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import gevent
import gevent.ssl
import rapidjson
import tritonclient.http as triton
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from flagtriton import errors
from flagtriton.options import OptionValue
from flagtriton.transport.base import (
    TLS,
    InferenceReply,
    ModelConfig,
    ServerAddress,
    queue_time_us,
    refused_by_dead_step,
)

__all__ = ["HttpTransport"]

_ERRORS: dict[str, type[errors.FlagTritonError]] = {
    "400": errors.InvalidRequestError,
    "401": errors.AccessDeniedError,
    "403": errors.AccessDeniedError,
    "404": errors.ModelNotServedError,
    "413": errors.InvalidRequestError,
    "408": errors.RequestTimeoutError,
    "429": errors.ServerUnavailableError,
    "502": errors.ServerUnavailableError,
    "503": errors.ServerUnavailableError,
    "504": errors.RequestTimeoutError,
}


class _Client(triton.InferenceServerClient):  # type: ignore[misc]
    """Triton's client, which remembers for how long the last answer asked to be left alone."""

    retry_after_s: float | None = None

    def _get(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - geventhttpclient's response
        return self._noted(super()._get, *arguments, **named)

    def _post(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        return self._noted(super()._post, *arguments, **named)

    def _noted(self, send: Callable[..., Any], *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        self.retry_after_s = None
        response = send(*arguments, **named)
        seconds = response.get("retry-after")
        self.retry_after_s = float(seconds) if seconds is not None and seconds.isdecimal() else None
        return response


class HttpTransport:
    """A `Transport` over HTTP.

    Args:
        address: where the server is; a path before Triton's own `/v2` is kept.
        headers: sent with every request.
        tls: None speaks plain text.
        timeout_s: seconds to wait for a connection, and for every read from it.
    """

    def __init__(self, address: ServerAddress, headers: Mapping[str, str], tls: TLS | None, timeout_s: float) -> None:
        self._address = address
        self._headers = dict(headers)
        self._tls = tls
        self._timeout_s = timeout_s
        self._closed = False
        self._of_thread = threading.local()
        self._clients: WeakSet[_Client] = WeakSet()  # each is closed when its thread ends

    def __reduce__(self) -> tuple[type[HttpTransport], tuple[Any, ...]]:
        """Pickle what new connections need."""
        return type(self), (self._address, self._headers, self._tls, self._timeout_s)

    @property
    def address(self) -> str:
        """The server's URL, for messages."""
        return str(self._address)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        parameters: Mapping[str, OptionValue],
        timeout_s: float | None = None,
    ) -> InferenceReply:
        """Run one request."""
        allowed_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        with self._translated(model), self._within(timeout_s):
            result = self._client.infer(
                model,
                [_input_tensor(name, array) for name, array in inputs.items()],
                outputs=[triton.InferRequestedOutput(name, binary_data=True) for name in outputs],
                parameters=dict(parameters),
                headers=self._headers,
                timeout=queue_time_us(allowed_s),
            )
        return {name: result.as_numpy(name) for name in outputs}

    def model_config(self, model: str) -> ModelConfig:
        """Return a model's configuration."""
        with self._translated(model):
            reply = self._client.get_model_config(model, headers=self._headers)
        return ModelConfig.from_json(model, reply)

    def ready_models(self) -> list[str]:
        """Return the names of all models that are ready."""
        with self._translated(""):
            # Not the repository's index, for which a server may want a secret.
            statistics = self._client.get_inference_statistics(headers=self._headers)
        return [model["name"] for model in statistics["model_stats"]]

    def close(self) -> None:
        """Close the connections of every thread."""
        self._closed = True
        while self._clients:
            self._clients.pop().close()

    @property
    def _client(self) -> _Client:
        if self._closed:
            raise errors.ClosedError(f"the connection to {self.address} is closed")
        client = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = self._new_client()
            self._clients.add(client)
        return client

    def _new_client(self) -> _Client:
        tls = self._tls
        return _Client(
            self._address.host_and_port,
            connection_timeout=self._timeout_s,
            network_timeout=self._timeout_s,
            ssl=tls is not None,
            ssl_context_factory=(lambda: _ssl_context(tls)) if tls is not None else None,
        )

    @contextmanager
    def _within(self, timeout_s: float | None) -> Iterator[None]:
        """Interrupt a request after so many seconds, and give up the connection that its reply may still come on."""
        try:
            with gevent.Timeout(timeout_s):  # None never interrupts
                yield
        except gevent.Timeout as timeout:
            client = self._of_thread.__dict__.pop("client", None)
            if client is not None:
                self._clients.discard(client)
                client.close()
            raise TimeoutError(f"no answer within {timeout.seconds:.3g} s") from timeout

    @contextmanager
    def _translated(self, model: str) -> Iterator[None]:
        subject = f"model {model!r} at {self.address}" if model else self.address
        try:
            yield
        except InferenceServerException as error:
            kind = _ERRORS.get(error.status() or "", errors.ServerError)
            if refused_by_dead_step(str(error.message())):
                kind = errors.ServerUnavailableError
            translated = kind(f"{subject}: {error.message()}")
            if isinstance(translated, errors.ServerUnavailableError):
                translated.retry_after_s = self._client.retry_after_s
            raise translated from error
        except rapidjson.JSONDecodeError as error:
            raise errors.ServerError(f"{subject} answered something that is not Triton's: {error}") from error
        except (TimeoutError, gevent.Timeout) as error:
            said = (
                str(error) if isinstance(error.__cause__, gevent.Timeout) else f"no answer within {self._timeout_s} s"
            )
            raise errors.RequestTimeoutError(f"{subject}: {said}") from error
        except (OSError, HTTPConnectionClosed, HTTPParseError) as error:
            raise errors.ServerUnavailableError(f"{subject}: {error or type(error).__name__}") from error


def _ssl_context(tls: TLS) -> gevent.ssl.SSLContext:
    context = gevent.ssl.create_default_context(cafile=tls.root_certificates)
    if tls.certificate_chain is not None:
        context.load_cert_chain(tls.certificate_chain, tls.private_key)
    return context


def _input_tensor(name: str, array: NDArray[Any]) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=True)
    return tensor
