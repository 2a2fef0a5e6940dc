# SPDX-License-Identifier: Apache-2.0
"""Triton over gRPC. One channel serves all threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import grpc
import tritonclient.grpc as triton
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
from flagtriton.transport.channels import Channels
from flagtriton.transport.diagnosis import wrong_server
from flagtriton.transport.refusals import is_dead_step, is_too_large, refusal

__all__ = ["GrpcTransport"]

T = TypeVar("T")

_ERRORS: dict[str, type[errors.FlagTritonError]] = {
    "StatusCode.INVALID_ARGUMENT": errors.InvalidRequestError,
    "StatusCode.OUT_OF_RANGE": errors.InvalidRequestError,
    "StatusCode.NOT_FOUND": errors.ModelNotServedError,
    "StatusCode.UNAVAILABLE": errors.ServerUnavailableError,
    "StatusCode.RESOURCE_EXHAUSTED": errors.ServerUnavailableError,  # a gateway's rate limit, HTTP's 429
    "StatusCode.DEADLINE_EXCEEDED": errors.RequestTimeoutError,
    "StatusCode.UNAUTHENTICATED": errors.AccessDeniedError,
    "StatusCode.PERMISSION_DENIED": errors.AccessDeniedError,
}

_MIN_TIMEOUT_S = 1e-3
"""Deadline of a call whose time is over, seconds; gRPC accepts no deadline of 0."""


class GrpcTransport:
    """A `Transport` over gRPC.

    Args:
        address: address of the server.
        headers: metadata of every call; names are lower-cased, as gRPC requires.
        tls: certificates; None sends plain text.
        timeout_s: deadline of every call, seconds.
    """

    def __init__(self, address: ServerAddress, headers: Mapping[str, str], tls: TLS | None, timeout_s: float) -> None:
        self._address = address
        self._headers = {name.lower(): value for name, value in headers.items()}
        self._tls = tls
        self._timeout_s = timeout_s
        self._has_answered = False
        self._channels = Channels(partial(_open_client, address, tls))

    def __reduce__(self) -> tuple[type[GrpcTransport], tuple[Any, ...]]:
        """Pickle the constructor's arguments; the copy opens its own channel."""
        return type(self), (self._address, self._headers, self._tls, self._timeout_s)

    @property
    def address(self) -> str:
        """The server's URL, for messages."""
        return str(self._address)

    def infer(self, request: InferRequest) -> InferenceReply:
        """Run one request."""
        tensors = [_input_tensor(name, array) for name, array in request.inputs.items()]
        outputs = [triton.InferRequestedOutput(name) for name in request.outputs]

        def send(client: triton.InferenceServerClient, left_s: float) -> Any:  # noqa: ANN401 - tritonclient's result
            return client.infer(
                request.model,
                tensors,
                outputs=outputs,
                parameters=dict(request.parameters),
                headers=self._headers,
                client_timeout=left_s,
                timeout=queue_time_us(left_s),
            )

        result = self._call(request.model, send, request.limited_to(self._timeout_s))
        return {name: result.as_numpy(name) for name in request.outputs}

    def model_config(self, model: str) -> ModelConfig:
        """Return a model's configuration."""
        reply = self._call(
            model,
            lambda client, left_s: client.get_model_config(
                model, headers=self._headers, as_json=True, client_timeout=left_s
            ),
            self._timeout_s,
        )
        return ModelConfig.from_json(model, reply["config"])

    def ready_models(self) -> list[str]:
        """Return the names of all ready models."""
        # The statistics, as a server may protect its repository index by a secret.
        statistics = self._call(
            "",
            lambda client, left_s: client.get_inference_statistics(headers=self._headers, client_timeout=left_s),
            self._timeout_s,
        )
        return [model.name for model in statistics.model_stats]

    def close(self) -> None:
        """Close the channel."""
        self._channels.close()

    def _call(self, model: str, send: Callable[[triton.InferenceServerClient, float], T], timeout_s: float) -> T:
        """Return the result of `send`; repeat a call that a fork of this process cut off, in the remaining time."""
        ends_at, left_s = time.monotonic() + timeout_s, timeout_s
        while True:
            if self._channels.is_closed:
                raise errors.ClosedError(f"the connection to {self.address} is closed")
            with self._channels.client() as channel:
                started_at = time.monotonic()
                try:
                    with self._translated(model):
                        reply = send(channel.client, left_s)
                except errors.RequestTimeoutError:
                    if channel.answered_at < started_at:  # no reply to any call meanwhile: it may be dead
                        self._channels.replace(channel)
                    raise
                except errors.FlagTritonError:
                    if channel.is_cut_off:
                        left_s = max(ends_at - time.monotonic(), _MIN_TIMEOUT_S)
                        continue
                    raise
                channel.answered_at = time.monotonic()
            self._has_answered = True
            return reply

    @contextmanager
    def _translated(self, model: str) -> Iterator[None]:
        """Raise the exceptions of tritonclient and protobuf as those of the SDK."""
        try:
            yield
        except InferenceServerException as error:
            kind = _ERRORS.get(error.status(), errors.ServerError)
            message = str(error.message())
            if is_dead_step(message):
                kind = errors.ServerUnavailableError
            if is_too_large(error.status() or "", message):
                kind = errors.RequestTooLargeError
            translated = refusal(kind, model, self._address, message)
            if isinstance(translated, errors.ServerUnavailableError):
                translated.retry_after_s = _retry_after_s(error.__context__)
            raise self._diagnosed(translated) from error
        except ValueError as error:  # protobuf's, for a number out of range
            raise errors.InvalidRequestError(f"the request does not fit gRPC: {error}") from error

    def _diagnosed(self, error: errors.FlagTritonError) -> errors.FlagTritonError:
        """Return `WrongServerError` in place of an error if the URL is wrong.

        A server that has answered before is only unavailable.
        """
        if not isinstance(error, (errors.ServerUnavailableError, errors.RequestTimeoutError)):
            self._has_answered = True
        if self._has_answered:
            return error
        return wrong_server(self._address, self._tls) or error


def _retry_after_s(error: BaseException | None) -> float | None:
    """Return the wait in a refusal's trailing metadata, as gRPC proxies and services send it; seconds."""
    if not isinstance(error, grpc.Call):
        return None
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-retry-pushback-ms" and str(value).isdecimal():
            return int(value) / 1e3
        if name == "retry-after" and str(value).isdecimal():
            return float(value)
    return None


def _open_client(address: ServerAddress, tls: TLS | None) -> triton.InferenceServerClient:
    certificates = tls or TLS()
    return triton.InferenceServerClient(
        address.host_and_port,
        ssl=tls is not None,
        root_certificates=certificates.root_certificates,
        private_key=certificates.private_key,
        certificate_chain=certificates.certificate_chain,
        channel_args=_channel_options(address),
    )


def _channel_options(address: ServerAddress) -> list[tuple[str, int | str]]:
    """Return gRPC's options: messages of any size, quick reconnection, and no proxy to a loopback address."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
        ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
        # By default a channel reconnects to a lost server after up to 2 minutes and fails every call until then.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.min_reconnect_backoff_ms", 5_000),  # a node that drops packets is given up after this time
        # A new channel opens a new connection rather than share its predecessor's dead one.
        ("grpc.use_local_subchannel_pool", 1),
        # At most two pings while a call waits, and none without a call: servers accept these by default. With
        # unacknowledged pings the kernel gives up a dead connection.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 2),
    ]
    if address.is_loopback:
        options.append(("grpc.enable_http_proxy", 0))
    if address.name is not None:
        options.append(("grpc.ssl_target_name_override", address.name))
    return options


def _input_tensor(name: str, array: NDArray[Any]) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor
