# SPDX-License-Identifier: Apache-2.0
"""Triton over HTTP with binary tensors. tritonclient encodes requests and decodes replies; `Connections` sends them."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

import rapidjson
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from flagtriton import errors
from flagtriton.transport.base import (
    TLS,
    InferenceReply,
    InferRequest,
    ModelConfig,
    ServerAddress,
    queue_time_us,
)
from flagtriton.transport.connections import Connections, HttpReply
from flagtriton.transport.diagnosis import wrong_server
from flagtriton.transport.refusals import body_summary, is_dead_step, refusal, triton_message

__all__ = ["HttpTransport"]

_ERRORS: dict[str, type[errors.FlagTritonError]] = {
    "400": errors.InvalidRequestError,
    "401": errors.AccessDeniedError,
    "403": errors.AccessDeniedError,
    "404": errors.ModelNotServedError,
    "413": errors.RequestTooLargeError,
    "408": errors.RequestTimeoutError,
    "429": errors.ServerUnavailableError,
    "502": errors.ServerUnavailableError,
    "503": errors.ServerUnavailableError,
    "504": errors.RequestTimeoutError,
}

_REDIRECTIONS = ("301", "302", "303", "307", "308")


class _Client(triton.InferenceServerClient):  # type: ignore[misc]
    """tritonclient over connections that all threads share; its own connections serve one thread and one process.

    Args:
        address: address of the server; its path stands before Triton's `/v2`.
        tls: certificates; None sends plain text.
    """

    def __init__(self, address: ServerAddress, tls: TLS | None) -> None:
        self._verbose = False  # the only attribute of the base class that its methods used here read
        self._connections = Connections(address.host_and_port, None if tls is None else partial(_ssl_context, tls))
        self._deadline = threading.local()

    @contextmanager
    def within(self, timeout_s: float) -> Iterator[None]:
        """Limit the requests of this thread inside the block to `timeout_s` seconds in all."""
        self._deadline.at = time.monotonic() + timeout_s
        yield

    def close(self) -> None:
        """Close all connections."""
        if "_connections" in self.__dict__:
            self._connections.close()

    def _get(self, request_uri: str, headers: Mapping[str, Any], query_params: object = None) -> HttpReply:
        return self._send("GET", request_uri, None, headers)

    def _post(
        self, request_uri: str, request_body: bytes | str, headers: Mapping[str, Any], query_params: object = None
    ) -> HttpReply:
        body = request_body.encode() if isinstance(request_body, str) else request_body
        return self._send("POST", request_uri, body, headers)

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, Any]) -> HttpReply:
        texts = {name: str(value) for name, value in headers.items()}
        reply = self._connections.request(method, path, body, texts, self._deadline.at - time.monotonic())
        if reply.status_code != HTTPStatus.OK or not reply.body.startswith(b"{"):
            raise _HttpError(reply)
        return reply


class _HttpError(InferenceServerException):  # type: ignore[misc]
    """A reply without a result: Triton's error, or the beginning of another server's body.

    Attributes:
        is_from_triton: whether Triton sent the reply.
        location: target of a redirection; None without one.
        retry_after_s: wait in the header `Retry-After`, seconds; None without one.
    """

    def __init__(self, reply: HttpReply) -> None:
        message = triton_message(reply.body)
        self.is_from_triton = message is not None
        self.location = reply.get("location")
        seconds = reply.get("retry-after")
        self.retry_after_s = float(seconds) if seconds is not None and seconds.isdecimal() else None
        super().__init__(message or body_summary(reply.status_code, reply.body), status=str(reply.status_code))


class HttpTransport:
    """A `Transport` over HTTP.

    Args:
        address: address of the server; its path stands before Triton's `/v2`.
        headers: headers of every request.
        tls: certificates; None sends plain text.
        timeout_s: seconds from connecting to the last byte of a reply, at most.
    """

    def __init__(self, address: ServerAddress, headers: Mapping[str, str], tls: TLS | None, timeout_s: float) -> None:
        self._address = address
        self._headers = dict(headers)
        self._tls = tls
        self._timeout_s = timeout_s
        self._has_answered = False
        self._is_closed = False
        self._open_client = _Client(address, tls)

    def __reduce__(self) -> tuple[type[HttpTransport], tuple[Any, ...]]:
        """Pickle the constructor's arguments; the copy opens its own connections."""
        return type(self), (self._address, self._headers, self._tls, self._timeout_s)

    @property
    def address(self) -> str:
        """The server's URL, for messages."""
        return str(self._address)

    def infer(self, request: InferRequest) -> InferenceReply:
        """Run one request."""
        timeout_s = request.limited_to(self._timeout_s)
        with self._translated(request.model, timeout_s):
            result = self._client.infer(
                request.model,
                [_input_tensor(name, array) for name, array in request.inputs.items()],
                outputs=[triton.InferRequestedOutput(name, binary_data=True) for name in request.outputs],
                parameters=dict(request.parameters),
                headers=self._headers,
                timeout=queue_time_us(timeout_s),
            )
            return {name: result.as_numpy(name) for name in request.outputs}

    def model_config(self, model: str) -> ModelConfig:
        """Return a model's configuration."""
        with self._translated(model, self._timeout_s):
            reply = self._client.get_model_config(model, headers=self._headers)
            return ModelConfig.from_json(model, reply)

    def ready_models(self) -> list[str]:
        """Return the names of all ready models."""
        with self._translated("", self._timeout_s):
            # The statistics, as a server may protect its repository index by a secret.
            statistics = self._client.get_inference_statistics(headers=self._headers)
            return [model["name"] for model in statistics["model_stats"]]

    def close(self) -> None:
        """Close every connection."""
        self._is_closed = True
        self._open_client.close()

    @property
    def _client(self) -> _Client:
        if self._is_closed:
            raise errors.ClosedError(f"the connection to {self.address} is closed")
        return self._open_client

    @contextmanager
    def _translated(self, model: str, timeout_s: float) -> Iterator[None]:
        """Raise the exceptions of tritonclient and the connections as those of the SDK."""
        try:
            with self._client.within(timeout_s):
                yield
        except InferenceServerException as error:
            raise self._error_of_reply(error, model) from error
        except rapidjson.JSONDecodeError as error:
            message = f"answered something that is not Triton's: {error}"
            raise refusal(errors.ServerError, model, self._address, message) from error
        except (OSError, HTTPException) as error:
            raise self._error_of_failure(error, model, timeout_s) from error
        self._has_answered = True

    def _error_of_reply(self, error: InferenceServerException, model: str) -> errors.FlagTritonError:
        """Return the SDK's error for a reply that is a refusal."""
        status, message = error.status() or "", str(error.message())
        kind = _ERRORS.get(status, errors.ServerError)
        if is_dead_step(message):
            kind = errors.ServerUnavailableError
        is_from_triton = getattr(error, "is_from_triton", True)
        if not is_from_triton:
            if status == "200":
                message = f"{message}; that is no answer of Triton's HTTP port (8000 by default)"
            elif status in _REDIRECTIONS:
                kind, message = (
                    errors.WrongServerError,
                    f"{message}; it leads to {error.location}: give that server as url",
                )
            elif not self._has_answered and status in ("400", "404"):
                diagnosis = wrong_server(self._address, self._tls)
                if diagnosis is not None:
                    return diagnosis
                kind, message = errors.WrongServerError, f"{message}; that is not Triton's HTTP port (8000 by default)"
        self._has_answered |= is_from_triton
        translated = refusal(kind, model, self._address, message)
        if isinstance(translated, errors.ServerUnavailableError):
            translated.retry_after_s = getattr(error, "retry_after_s", None)
        return translated

    def _error_of_failure(self, error: Exception, model: str, timeout_s: float) -> errors.FlagTritonError:
        """Return the SDK's error for a connection that failed; a wrong URL may be the cause."""
        diagnosis = None if self._has_answered else wrong_server(self._address, self._tls)
        if diagnosis is not None:
            return diagnosis
        if isinstance(error, TimeoutError):
            message = f"no answer within {timeout_s:.3g} s"
            return refusal(errors.RequestTimeoutError, model, self._address, message)
        return refusal(errors.ServerUnavailableError, model, self._address, str(error) or type(error).__name__)


def _ssl_context(tls: TLS) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.root_certificates)
    if tls.certificate_chain is not None:
        context.load_cert_chain(tls.certificate_chain, tls.private_key)
    return context


def _input_tensor(name: str, array: NDArray[Any]) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, binary_data=True)
    return tensor
