# SPDX-License-Identifier: Apache-2.0
"""nginx before the shared server as docs/proxy.md has it: what passes, what is refused, and how the SDK says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from flagtriton import TLS, AccessDeniedError, BGEM3FlagModel, FlagModel, InvalidRequestError, ServerUnavailableError
from flagtriton_tools.serving import ServeOptions, free_ports
from tests.conftest import Served
from tests.proxies import CAN_RUN, TOKENS, Proxy, ask, running_proxy, wait_for

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not CAN_RUN, reason="nginx or envsubst is not installed"),
]

TEXTS = ["a heron by the pond", "b"]
BEARER = {name: f"Bearer {token}" for name, token in TOKENS.items()}
KNOWN = {"Authorization": BEARER["search-team"]}
both_wires = pytest.mark.parametrize("scheme", ["https", "grpcs"])


@pytest.fixture(scope="module")
def upstream(served: Served) -> ServeOptions:
    return served.server.options


@pytest.fixture(scope="module")
def proxy(upstream: ServeOptions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), upstream) as running:
        yield running


@pytest.fixture(scope="module")
def strict(upstream: ServeOptions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Return one that takes small requests from quick senders, who show a certificate."""
    settings = {"MAX_BODY": "100k", "SENDER_TIMEOUT": "1s", "CLIENT_CA": "authority.pem"}
    with running_proxy(tmp_path_factory.mktemp("strict"), upstream, **settings) as running:
        yield running


def model_behind(proxy: Proxy, scheme: str, **more: Any) -> FlagModel:
    settings = {"ssl": proxy.tls(), "headers": KNOWN, "retries": 0, "use_fp16": False, "request_timeout_s": 30, **more}
    return FlagModel("bert-cls", url=proxy.url(scheme), **settings)


def grpc_client(proxy: Proxy) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(
        f"localhost:{proxy.ports['grpcs']}",
        ssl=True,
        root_certificates=proxy.tls().root_certificates,
        channel_args=[("grpc.enable_http_proxy", 0)],
    )


@pytest.mark.parametrize("name", TOKENS)
@both_wires
def test_every_token_gets_the_answers_that_triton_gives(
    scheme: str, name: str, proxy: Proxy, served: Served
) -> None:
    with FlagModel("bert-cls", url=served.grpc_url, use_fp16=False) as model:
        expected = model.encode(TEXTS)
    with model_behind(proxy, scheme, headers={"Authorization": BEARER[name]}) as model:
        assert np.array_equal(model.encode(TEXTS), expected)


@both_wires
def test_replies_larger_than_all_buffers_come_whole(scheme: str, proxy: Proxy, served: Served) -> None:
    texts = ["heron " * 400] * 32  # 32 texts x 401 tokens x 32 components x 4 bytes: 1.6 MB, buffers hold 1 MiB
    wanted = {"return_dense": False, "return_colbert_vecs": True}
    behind = {"url": proxy.url(scheme), "ssl": proxy.tls(), "headers": KNOWN}
    with BGEM3FlagModel("m3", use_fp16=False, **behind) as model:
        vectors = model.encode(texts, **wanted)["colbert_vecs"]
    with BGEM3FlagModel("m3", use_fp16=False, url=served.grpc_url) as model:
        expected = model.encode(texts, **wanted)["colbert_vecs"]
    assert sum(array.nbytes for array in expected) > 1 << 20
    assert all(np.allclose(*pair, atol=1e-6) for pair in zip(vectors, expected, strict=True))


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer guessed"}, {"Authorization": TOKENS["indexer"]}])
@both_wires
def test_without_a_known_token_access_is_denied(scheme: str, headers: dict[str, str], proxy: Proxy) -> None:
    with pytest.raises(AccessDeniedError, match="'bert-cls' at .*: the proxy wants .* 'Authorization: Bearer TOKEN'|"):
        model_behind(proxy, scheme, headers=headers)


def test_http_is_told_how_to_authenticate(proxy: Proxy) -> None:
    reply = ask(proxy.connection(), "GET", "/v2")
    assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Bearer realm="flagtriton"')
    assert reply.headers["Server"] == "nginx"


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/stats",
        "/v2/models/bert-cls",
        "/v2/models/bert-cls/ready?why",
        "/v2/models/bert-cls/versions/1/config",
        "/v2/models/bert-cls/stats",
    ],
)
def test_paths_that_ask_pass(path: str, proxy: Proxy) -> None:
    assert ask(proxy.connection(), "GET", path, **KNOWN).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/logging"),
        ("GET", "/v2/trace/setting"),
        ("GET", "/v2/models/bert-cls/trace/setting"),
        ("GET", "/v2/systemsharedmemory/status"),
    ],
)
def test_paths_that_rule_are_refused(method: str, path: str, proxy: Proxy, upstream: ServeOptions) -> None:
    assert ask(HTTPConnection("127.0.0.1", upstream.http_port), method, path).status == 200
    assert ask(proxy.connection(), method, path, **KNOWN).status == 403


@pytest.mark.parametrize(
    "path",
    ["/v2/models/x/../../repository/index", "/v2/repository/index/../../models/stats", "//v2/logging", "/V2/logging"],
)
def test_paths_that_are_disguised_are_refused(path: str, proxy: Proxy) -> None:
    assert ask(proxy.connection(), "POST", path, **KNOWN).status == 403


def test_methods_that_ask_pass(proxy: Proxy) -> None:
    headers = {"authorization": BEARER["indexer"]}
    with grpc_client(proxy) as client:
        assert client.is_server_live(headers)
        assert client.is_server_ready(headers)
        assert client.is_model_ready("bert-cls", headers=headers)
        assert client.get_server_metadata(headers).name == "triton"
        assert client.get_model_metadata("bert-cls", headers=headers).name == "bert-cls"
        assert client.get_inference_statistics("bert-cls", headers=headers).model_stats


def test_streams_pass_and_may_be_quiet(upstream: ServeOptions, tmp_path: Path) -> None:
    replies: list[Any] = []
    with running_proxy(tmp_path, upstream, SENDER_TIMEOUT="1s") as proxy, grpc_client(proxy) as client:
        client.start_stream(lambda result, error: replies.append((result, error)), headers={"authorization": BEARER["indexer"]})
        for count in (1, 2):
            text = triton.InferInput("text", [1, 1], "BYTES")
            text.set_data_from_numpy(np.array([[b"a"]], object))
            client.async_stream_infer("bert-cls", [text])
            wait_for(lambda count=count: len(replies) == count)
            time.sleep(1.5)
        client.stop_stream()
    assert [error for _, error in replies] == [None, None]


@pytest.mark.parametrize(
    "call",
    [
        lambda client, headers: client.get_model_repository_index(headers),
        lambda client, headers: client.get_log_settings(headers),
        lambda client, headers: client.get_trace_settings("bert-cls", headers),
        lambda client, headers: client.get_system_shared_memory_status(headers=headers),
    ],
    ids=["repository", "logging", "trace", "shared memory"],
)
def test_methods_that_rule_are_refused(call: Callable[..., object], proxy: Proxy, upstream: ServeOptions) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{upstream.grpc_port}") as client:
        assert call(client, {}) is not None
    with grpc_client(proxy) as client, pytest.raises(InferenceServerException, match="does not let") as refused:
        call(client, {"authorization": BEARER["indexer"]})
    assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
