# SPDX-License-Identifier: Apache-2.0
"""What real servers of either wire refuse with, as the transports tell it: when to come back, and dead processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from flagtriton import errors
from flagtriton.protocol.text import text_tensor
from flagtriton.transport.base import InferRequest, Transport
from flagtriton.transport.connect import connect
from tests.support.servers.http_server import Answer, Asked, answering

DEAD = "in ensemble 'x', Stub process 'x_0_0' is not healthy."
CALLS: dict[str, Callable[[Transport], object]] = {
    "infer": lambda transport: transport.infer(InferRequest("m", {"text": text_tensor(["a"])}, ["dense_vecs"], {})),
    "model_config": lambda transport: transport.model_config("m"),
    "ready_models": lambda transport: transport.ready_models(),
}
each_call = pytest.mark.parametrize("call", CALLS)


def error_at(url: str, call: str = "infer") -> errors.FlagTritonError:
    transport = connect(url, timeout_s=20)
    try:
        with pytest.raises(errors.FlagTritonError) as caught:
            CALLS[call](transport)
    finally:
        transport.close()
    return caught.value


def http_error(status: int, message: str, headers: Mapping[str, str], call: str = "infer") -> errors.FlagTritonError:
    """Return what becomes of an answer over HTTP."""
    with answering(lambda _: Answer(status, json.dumps({"error": message}).encode(), headers)) as url:
        return error_at(url, call)


@contextmanager
def grpc_server(code: grpc.StatusCode, message: str, metadata: Mapping[str, str]) -> Iterator[str]:
    """Yield the URL of a server that refuses every call."""

    def refuse(_: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(tuple(metadata.items()))
        context.abort(code, message)
        raise AssertionError

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: object) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((Handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"grpc://127.0.0.1:{port}"
        finally:
            server.stop(0).wait()


def grpc_error(
    code: grpc.StatusCode, message: str, metadata: Mapping[str, str], call: str = "infer"
) -> errors.FlagTritonError:
    """Return what becomes of a refusal over gRPC."""
    with grpc_server(code, message, metadata) as url:
        return error_at(url, call)


# When to come back.


@each_call
@pytest.mark.parametrize("status", [429, 502, 503])
def test_over_http_retry_after_is_the_seconds_to_wait(status: int, call: str) -> None:
    error = http_error(status, "busy", {"Retry-After": "7"}, call)
    assert isinstance(error, errors.ServerUnavailableError)
    assert (error.retry_after_s, str(error).endswith(": busy")) == (7.0, True)


@pytest.mark.parametrize("value", ["", "soon", "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_over_http_another_retry_after_is_none(value: str) -> None:
    error = http_error(503, "busy", {"Retry-After": value})
    assert isinstance(error, errors.ServerUnavailableError)
    assert error.retry_after_s is None


def test_over_http_no_retry_after_is_none() -> None:
    error = http_error(503, "busy", {})
    assert isinstance(error, errors.ServerUnavailableError)
    assert error.retry_after_s is None


def test_over_http_a_time_holds_for_the_answer_that_named_it() -> None:
    headers: list[Mapping[str, str]] = [{"Retry-After": "7"}, {}]

    def answer(_: Asked) -> Answer:
        return Answer(503, b'{"error": "busy"}', headers.pop(0))

    with answering(answer) as url:
        transport = connect(url)
        seen = []
        for _ in range(2):
            with pytest.raises(errors.ServerUnavailableError) as caught:
                CALLS["infer"](transport)
            seen.append(caught.value.retry_after_s)
        transport.close()
    assert seen == [7.0, None]


@pytest.mark.parametrize("status", [400, 404, 500, 504])
def test_over_http_other_refusals_name_no_time(status: int) -> None:
    error = http_error(status, "no", {"Retry-After": "7"})
    assert not isinstance(error, errors.ServerUnavailableError)
    assert not hasattr(error, "retry_after_s")


def test_over_http_a_page_of_a_proxys_may_name_a_time() -> None:
    with answering(lambda _: Answer(503, b"<html>maintenance</html>", {"Retry-After": "30"})) as url:
        error = error_at(url)
    assert isinstance(error, errors.ServerUnavailableError)
    assert error.retry_after_s == 30.0


@each_call
@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        ({"grpc-retry-pushback-ms": "1500"}, 1.5),
        ({"retry-after": "3"}, 3.0),
        ({"other": "9"}, None),
        ({"grpc-retry-pushback-ms": "-1"}, None),
        ({"grpc-retry-pushback-ms": "soon"}, None),
        ({}, None),
    ],
)
def test_over_grpc_trailing_metadata_is_the_seconds_to_wait(
    metadata: Mapping[str, str], seconds: float | None, call: str
) -> None:
    error = grpc_error(grpc.StatusCode.UNAVAILABLE, "busy", metadata, call)
    assert isinstance(error, errors.ServerUnavailableError)
    assert (error.retry_after_s, str(error).endswith(": busy")) == (seconds, True)


def test_over_grpc_a_rate_limit_names_a_time_too() -> None:
    error = grpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", {"retry-after": "3"})
    assert isinstance(error, errors.ServerUnavailableError)
    assert error.retry_after_s == 3.0


def test_over_grpc_other_refusals_name_no_time() -> None:
    error = grpc_error(grpc.StatusCode.INVALID_ARGUMENT, "no", {"grpc-retry-pushback-ms": "1500"})
    assert isinstance(error, errors.InvalidRequestError)
    assert not hasattr(error, "retry_after_s")


# A dead process.


@pytest.mark.parametrize("status", [400, 500])
def test_over_http_a_dead_process_is_a_server_that_comes_back(status: int) -> None:
    error = http_error(status, DEAD, {})
    assert type(error) is errors.ServerUnavailableError
    assert DEAD in str(error)


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT])
def test_over_grpc_a_dead_process_is_a_server_that_comes_back(code: grpc.StatusCode) -> None:
    error = grpc_error(code, DEAD, {})
    assert type(error) is errors.ServerUnavailableError
    assert DEAD in str(error)


@pytest.mark.parametrize("message", ["the weather is not healthy", "Stub process 'x_0_0' said: CUDA error"])
def test_another_failure_is_the_servers(message: str) -> None:
    assert type(http_error(500, message, {})) is errors.ServerError
    assert type(grpc_error(grpc.StatusCode.INTERNAL, message, {})) is errors.ServerError


# What is not Triton's.


@each_call
def test_over_http_a_page_in_place_of_an_answer_is_the_servers_failure(call: str) -> None:
    with answering(lambda _: Answer(200, b"<html>welcome</html>")) as url:
        assert isinstance(error_at(url, call), errors.ServerError)


def test_over_http_a_server_that_hangs_up_is_unavailable() -> None:
    with answering(lambda _: None) as url:
        assert isinstance(error_at(url), errors.ServerUnavailableError)


# What is too large.


@pytest.mark.parametrize(
    "message",
    [
        "Received message larger than max (5000000 vs. 4194304)",
        "SERVER: Received message larger than max (5000000 vs. 4194304)",
        "CLIENT: Sent message larger than max (5000000 vs. 4194304)",
        "grpc: received message larger than max (5000000 vs. 4194304)",
        "trying to send message larger than max (5000000 vs. 4194304)",
        "gRPC message exceeds maximum size 4194304: 5000000",
    ],
)
def test_over_grpc_a_message_over_a_limit_is_a_request_too_large(message: str) -> None:
    error = grpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, message, {})
    assert type(error) is errors.RequestTooLargeError


def test_over_grpc_our_own_proxys_limit_is_one_too() -> None:
    said = "the request is larger than 100k, which is what the proxy takes; send fewer or shorter texts"
    assert type(grpc_error(grpc.StatusCode.INVALID_ARGUMENT, said, {})) is errors.RequestTooLargeError


def test_over_grpc_what_the_model_named_itself_is_said_once() -> None:
    error = grpc_error(grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'm', option 'x' is 3", {})
    assert str(error).endswith(": option 'x' is 3")
    assert str(error).startswith("model 'm' at grpc://")
