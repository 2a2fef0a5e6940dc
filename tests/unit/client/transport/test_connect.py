# SPDX-License-Identifier: Apache-2.0
"""Addresses, configurations, and what each wire's errors become; nothing is sent."""

from __future__ import annotations

import pickle
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.client import BadStatusLine, IncompleteRead
from typing import Any
from unittest.mock import Mock

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from flagtriton import errors
from flagtriton.errors import ClosedError
from flagtriton.protocol.text import text_tensor
from flagtriton.transport.base import TLS, InferRequest, ModelConfig, ServerAddress, Transport
from flagtriton.transport.connect import connect

GRPC_ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: errors.ModelNotServedError,
    grpc.StatusCode.UNAVAILABLE: errors.ServerUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.RequestTimeoutError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AccessDeniedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.AccessDeniedError,
    grpc.StatusCode.INTERNAL: errors.ServerError,
    grpc.StatusCode.UNKNOWN: errors.ServerError,
    grpc.StatusCode.UNIMPLEMENTED: errors.ServerError,
}
HTTP_ERRORS = {
    400: errors.InvalidRequestError,
    401: errors.AccessDeniedError,
    403: errors.AccessDeniedError,
    404: errors.ModelNotServedError,
    408: errors.RequestTimeoutError,
    413: errors.RequestTooLargeError,
    429: errors.ServerUnavailableError,
    500: errors.ServerError,
    501: errors.ServerError,
    502: errors.ServerUnavailableError,
    503: errors.ServerUnavailableError,
    504: errors.RequestTimeoutError,
}
CLIENTS = {"grpc": "tritonclient.grpc.InferenceServerClient", "http": "flagtriton.transport.http._Client"}
CALLS = {
    "infer": lambda transport: transport.infer(InferRequest("m", {"text": text_tensor(["a"])}, ["dense_vecs"], {})),
    "model_config": lambda transport: transport.model_config("m"),
    "ready_models": lambda transport: transport.ready_models(),
}


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, wire: str, failure: BaseException) -> Iterator[Transport]:
    """Yield a transport whose underlying client raises `failure` from everything it is asked."""

    class Client:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        def fail(self, *args: Any, **kwargs: Any) -> None:
            raise failure

        infer = get_model_config = get_inference_statistics = fail

        def within(self, timeout_s: float) -> Any:
            return nullcontext()

        def close(self) -> None:
            pass

    monkeypatch.setattr(CLIENTS[wire], Client)
    transport = connect(f"{wire}://server:1")
    yield transport
    transport.close()


def error_of(monkeypatch: pytest.MonkeyPatch, wire: str, failure: BaseException, call: str = "infer") -> Exception:
    with failing(monkeypatch, wire, failure) as transport, pytest.raises(errors.FlagTritonError) as caught:
        CALLS[call](transport)
    return caught.value


# Addresses.


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("grpc://host:9001", ServerAddress("grpc", "host:9001", secure=False)),
        ("grpcs://host:9001", ServerAddress("grpc", "host:9001", secure=True)),
        ("http://host:9000", ServerAddress("http", "host:9000", secure=False)),
        ("https://host:9443", ServerAddress("http", "host:9443", secure=True)),
    ],
)
def test_a_scheme_says_wire_and_encryption(url: str, address: ServerAddress) -> None:
    assert ServerAddress.parse(url) == address


@pytest.mark.parametrize(
    ("url", "host_and_port"),
    [("grpc://h", "h:8001"), ("grpcs://h", "h:8001"), ("http://h", "h:8000"), ("https://h", "h:443")],
)
def test_a_missing_port_is_the_wires_own(url: str, host_and_port: str) -> None:
    assert ServerAddress.parse(url).host_and_port == host_and_port


@pytest.mark.parametrize(("url", "host_and_port"), [("grpc://[::1]:1", "[::1]:1"), ("grpc://[::1]", "[::1]:8001")])
def test_an_ipv6_host_keeps_its_brackets(url: str, host_and_port: str) -> None:
    assert ServerAddress.parse(url).host_and_port == host_and_port


@pytest.mark.parametrize("url", ["https://gate/triton", "https://gate/triton/"])
def test_an_http_path_is_kept_without_its_last_slash(url: str) -> None:
    assert ServerAddress.parse(url).host_and_port == "gate:443/triton"


def test_a_slash_alone_is_no_path() -> None:
    assert ServerAddress.parse("http://h:1/") == ServerAddress.parse("http://h:1")


@pytest.mark.parametrize("url", ["", "localhost", "localhost:8001", "ftp://h:1", "grpc://", "http:///v2", "grpc:h:1"])
def test_another_url_is_refused_with_the_forms_there_are(url: str) -> None:
    with pytest.raises(ValueError, match=f"server URL is '{url}'; expected grpc://host:port, grpcs://"):
        ServerAddress.parse(url)


@pytest.mark.parametrize("port", ["99999", "eighty"])
def test_a_port_that_is_none_is_refused_with_the_url(port: str) -> None:
    with pytest.raises(ValueError, match=port):
        ServerAddress.parse(f"grpc://h:{port}")


@pytest.mark.parametrize("url", ["grpc://h:1", "grpcs://h:1", "http://h:1", "https://h:1/below"])
def test_an_address_is_shown_as_its_url(url: str) -> None:
    assert str(ServerAddress.parse(url)) == url


# connect


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("grpc://h:1", "GrpcTransport"),
        ("grpcs://h:1", "GrpcTransport"),
        ("http://h:1", "HttpTransport"),
        ("https://h:1", "HttpTransport"),
    ],
)
def test_the_scheme_chooses_the_transport(url: str, kind: str) -> None:
    transport = connect(url)
    transport.close()
    assert (type(transport).__name__, transport.address) == (kind, url)


@pytest.mark.parametrize("value", [None, ""])
def test_no_url_is_the_local_server(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAGTRITON_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("FLAGTRITON_URL", value)
    transport = connect()
    transport.close()
    assert transport.address == "grpc://localhost:8001"


def test_the_environment_says_where_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGTRITON_URL", "http://elsewhere:5")
    transport = connect()
    transport.close()
    assert transport.address == "http://elsewhere:5"


def test_a_given_url_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGTRITON_URL", "http://elsewhere:5")
    transport = connect("http://here:6")
    transport.close()
    assert transport.address == "http://here:6"


def test_another_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="server URL is 'tcp://h:1'"):
        connect("tcp://h:1")


@pytest.mark.parametrize(
    ("url", "tls", "expected"),
    [
        ("grpc://h:1", None, {"ssl": False, "root_certificates": None}),
        ("grpcs://h:1", None, {"ssl": True, "root_certificates": None}),
        ("grpc://h:1", TLS("ca.pem"), {"ssl": True, "root_certificates": "ca.pem"}),
    ],
)
def test_encryption_reaches_the_grpc_client(
    url: str, tls: TLS | None, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        "tritonclient.grpc.InferenceServerClient", lambda url, **options: seen.update(options) or Mock()
    )
    connect(url, tls=tls)
    assert {name: seen[name] for name in expected} == expected


# Configurations.


def test_a_configuration_is_read_from_its_json() -> None:
    reply = {
        "name": "m",
        "max_batch_size": 8,
        "parameters": {"task": {"string_value": "embed"}},
        "platform": "ensemble",
    }
    assert ModelConfig.from_json("m", reply) == ModelConfig("m", 8, {"task": "embed"})


def test_a_configuration_without_batching_or_parameters_is_read() -> None:
    assert ModelConfig.from_json("m", {"name": "m"}) == ModelConfig("m", 0, {})


def test_an_empty_parameter_is_read_from_the_json_of_the_grpc_client() -> None:
    # protobuf's JSON form leaves an empty string out: the entry is `{}`.
    config = model_config_pb2.ModelConfig(name="m", max_batch_size=8)
    config.parameters["query_instruction"].string_value = ""
    reply = MessageToDict(config, preserving_proto_field_name=True)
    assert ModelConfig.from_json("m", reply).parameters == {"query_instruction": ""}


# What a wire's errors become.


@pytest.mark.parametrize(("code", "kind"), GRPC_ERRORS.items())
def test_a_grpc_status_becomes(code: grpc.StatusCode, kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    failure = InferenceServerException("why", status=str(code))
    assert type(error_of(monkeypatch, "grpc", failure)) is kind


@pytest.mark.parametrize("code", grpc.StatusCode)
@pytest.mark.parametrize("call", CALLS)
def test_no_grpc_status_leaves_the_tree(code: grpc.StatusCode, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = InferenceServerException("why", status=str(code))
    error = error_of(monkeypatch, "grpc", failure, call)
    assert error.__cause__ is failure


@pytest.mark.parametrize(("code", "kind"), HTTP_ERRORS.items())
def test_an_http_status_becomes(code: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    failure = InferenceServerException("why", status=str(code))
    assert type(error_of(monkeypatch, "http", failure)) is kind


@pytest.mark.parametrize("code", [*HTTP_ERRORS, 418, 599, None])
@pytest.mark.parametrize("call", CALLS)
def test_no_http_status_leaves_the_tree(code: int | None, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = InferenceServerException("why", status=None if code is None else str(code))
    error = error_of(monkeypatch, "http", failure, call)
    assert error.__cause__ is failure


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ConnectionRefusedError(111, "Connection refused"), errors.ServerUnavailableError),
        (ConnectionResetError(104, "reset"), errors.ServerUnavailableError),
        (socket.gaierror(-2, "Name or service not known"), errors.ServerUnavailableError),
        (BadStatusLine("?"), errors.ServerUnavailableError),
        (IncompleteRead(b"half"), errors.ServerUnavailableError),
        (ssl.SSLError(1, "no TLS"), errors.ServerUnavailableError),
        (TimeoutError("timed out"), errors.RequestTimeoutError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.__name__,
)
@pytest.mark.parametrize("call", CALLS)
def test_a_broken_http_connection_becomes(
    failure: BaseException, kind: type[Exception], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(error_of(monkeypatch, "http", failure, call)) is kind


@pytest.mark.parametrize("wire", ["grpc", "http"])
@pytest.mark.parametrize("call", ["infer", "model_config"])
def test_a_message_names_model_url_and_cause(wire: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = error_of(monkeypatch, wire, InferenceServerException("why"), call)
    assert str(error) == f"model 'm' at {wire}://server:1: why"


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_a_message_without_model_names_url_and_cause(wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = error_of(monkeypatch, wire, InferenceServerException("why"), "ready_models")
    assert str(error) == f"{wire}://server:1: why"


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_another_exception_is_left_as_it_is(wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing(monkeypatch, wire, ZeroDivisionError()) as transport, pytest.raises(ZeroDivisionError):
        CALLS["infer"](transport)


# What is handed to tritonclient.


class Recorder:
    """Stands in for either tritonclient client: records `infer` and answers with one number."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def infer(self, *args: Any, **options: Any) -> Recorder:
        self.calls.append((args, options))
        return self

    def as_numpy(self, name: str) -> np.ndarray:
        return np.array([[len(name)]])

    def within(self, timeout_s: float) -> Any:
        return nullcontext()

    def close(self) -> None:
        pass


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_a_request_reaches_tritonclient_whole(wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(CLIENTS[wire], lambda *args, **options: recorder)
    transport = connect(f"{wire}://server:1", headers={"authorization": "Bearer t"})
    reply = transport.infer(InferRequest("m", {"text": text_tensor(["a", "bb"])}, ["dense_vecs"], {"max_length": 7}))
    [((model, [tensor]), options)] = recorder.calls
    assert (model, tensor.name(), tensor.shape(), tensor.datatype()) == ("m", "text", [2, 1], "BYTES")
    assert [output.name() for output in options["outputs"]] == ["dense_vecs"]
    assert (options["parameters"], options["headers"]) == ({"max_length": 7}, {"authorization": "Bearer t"})
    assert reply["dense_vecs"].tolist() == [[10]]  # "dense_vecs" has 10 letters


def test_grpc_metadata_names_are_in_small_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr("tritonclient.grpc.InferenceServerClient", lambda *args, **options: recorder)
    transport = connect("grpc://server:1", headers={"Authorization": "Bearer T"})
    transport.infer(InferRequest("m", {}, [], {}))
    assert recorder.calls[0][1]["headers"] == {"authorization": "Bearer T"}


def test_the_timeout_is_the_deadline_of_a_grpc_call(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr("tritonclient.grpc.InferenceServerClient", lambda *args, **options: recorder)
    connect("grpc://server:1", timeout_s=2.5).infer(InferRequest("m", {}, [], {}))
    assert recorder.calls[0][1]["client_timeout"] == 2.5


# Life and copies.


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_closed_transport_says_so(url: str) -> None:
    transport = connect(url)
    transport.close()
    with pytest.raises(ClosedError, match=url):
        transport.ready_models()


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_transport_is_pickled_as_what_connects_it(url: str) -> None:
    copy = pickle.loads(pickle.dumps(connect(url, headers={"a": "b"}, timeout_s=3)))
    assert copy.address == url
    assert copy.__reduce__()[1][1:] == ({"a": "b"}, None, 3)


def test_a_url_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="server URL is 5, a int"):
        ServerAddress.parse(5)  # type: ignore[arg-type]
