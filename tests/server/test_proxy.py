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
from tritonclient.utils import InferenceServerException

from flagtriton import (
    TLS,
    AccessDeniedError,
    BGEM3FlagModel,
    FlagModel,
    InvalidRequestError,
    ModelNotServedError,
    ServerUnavailableError,
)
from flagtriton_tools.tritonserver.admin import SECRET_HEADER
from flagtriton_tools.tritonserver.options import ServeOptions, free_ports
from tests.conftest import Served
from tests.support.servers.proxies import CAN_RUN, TOKENS, Proxy, ask, running_proxy
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.server, pytest.mark.skipif(not CAN_RUN, reason="nginx or envsubst is not installed")]

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
    """Return one that takes small requests, and those from quick senders."""
    with running_proxy(tmp_path_factory.mktemp("strict"), upstream, MAX_BODY="100k", SENDER_TIMEOUT="1s") as running:
        yield running


def model_behind(proxy: Proxy, scheme: str, **more: Any) -> FlagModel:
    settings = {"ssl": proxy.tls(), "headers": KNOWN, "retries": 0, "use_fp16": False, **more}
    return FlagModel("bert-cls", url=proxy.url(scheme), **settings)


@pytest.mark.parametrize("name", TOKENS)
@both_wires
def test_every_token_gets_the_answers_that_triton_gives(scheme: str, name: str, proxy: Proxy, served: Served) -> None:
    with FlagModel("bert-cls", url=served.grpc_url, use_fp16=False) as model:
        expected = model.encode(TEXTS)
    with model_behind(proxy, scheme, headers={"Authorization": BEARER[name]}) as model:
        assert np.array_equal(model.encode(TEXTS), expected)


@both_wires
def test_replies_larger_than_all_buffers_come_whole(scheme: str, proxy: Proxy, served: Served) -> None:
    texts = ["heron " * 400] * 12
    wanted = {"return_dense": False, "return_colbert_vecs": True}
    behind = {"url": proxy.url(scheme), "ssl": proxy.tls(), "headers": KNOWN}
    with BGEM3FlagModel("m3", use_fp16=False, **behind) as model:
        vectors = model.encode(texts, **wanted)["colbert_vecs"]
    with BGEM3FlagModel("m3", use_fp16=False, url=served.grpc_url) as model:
        expected = model.encode(texts, **wanted)["colbert_vecs"]
    assert sum(array.nbytes for array in expected) > 32 * 32_768  # proxy_buffers
    assert all(np.allclose(*pair, atol=1e-6) for pair in zip(vectors, expected, strict=True))


@both_wires
def test_who_asks_for_a_wrong_name_is_told_the_right_ones(scheme: str, proxy: Proxy) -> None:
    with pytest.raises(ModelNotServedError, match=r"served there: .*bert-cls"):
        FlagModel("bert-cl", url=proxy.url(scheme), ssl=proxy.tls(), headers=KNOWN)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer guessed"}, {"Authorization": TOKENS["indexer"]}])
@both_wires
def test_without_a_known_token_access_is_denied(scheme: str, headers: dict[str, str], proxy: Proxy) -> None:
    with pytest.raises(AccessDeniedError, match=r"'[Aa]uthorization: Bearer TOKEN' with a token that it knows"):
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
def test_paths_that_rule_are_refused(method: str, path: str, proxy: Proxy, served: Served) -> None:
    secret = {SECRET_HEADER: served.server.secret}
    assert ask(HTTPConnection("127.0.0.1", served.server.options.http_port), method, path, **secret).status == 200
    assert ask(proxy.connection(), method, path, **KNOWN, **secret).status == 403


@pytest.mark.parametrize(
    "path",
    ["/v2/models/x/../../repository/index", "/v2/repository/index/../../models/stats", "//v2/logging", "/V2/logging"],
)
def test_paths_that_are_disguised_are_refused(path: str, proxy: Proxy) -> None:
    assert ask(proxy.connection(), "POST", path, **KNOWN).status == 403


def test_methods_that_ask_pass(proxy: Proxy) -> None:
    headers = {"authorization": BEARER["indexer"]}
    with proxy.grpc_client() as client:
        assert client.is_server_live(headers)
        assert client.is_server_ready(headers)
        assert client.is_model_ready("bert-cls", headers=headers)
        assert client.get_server_metadata(headers).name == "triton"
        assert client.get_model_metadata("bert-cls", headers=headers).name == "bert-cls"
        assert client.get_inference_statistics("bert-cls", headers=headers).model_stats


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
def test_methods_that_rule_are_refused(call: Callable[..., object], proxy: Proxy, served: Served) -> None:
    secret = {f"triton-grpc-protocol-{SECRET_HEADER}": served.server.secret}
    with triton.InferenceServerClient(f"127.0.0.1:{served.server.options.grpc_port}") as client:
        assert call(client, secret) is not None
    with proxy.grpc_client() as client, pytest.raises(InferenceServerException, match="does not let") as refused:
        call(client, {"authorization": BEARER["indexer"], **secret})
    assert refused.value.status() == "StatusCode.PERMISSION_DENIED"


@both_wires
def test_a_request_that_is_too_large_is_refused(scheme: str, strict: Proxy) -> None:
    with (
        model_behind(strict, scheme, retries=None) as model,  # none is made
        pytest.raises(InvalidRequestError, match="larger than 100k, which is what the proxy takes"),
    ):
        model.encode("heron " * 20_000)


def test_a_sender_that_stops_is_cut_off(strict: Proxy) -> None:
    connection = strict.connection()
    connection.request("POST", "/v2/models/bert-cls/infer", b"{", {**KNOWN, "Content-Length": "1000"})
    assert connection.sock.recv(1) == b""
    connection.close()


def test_a_stream_may_be_quiet_for_longer(strict: Proxy) -> None:
    replies: list[Any] = []
    text = triton.InferInput("text", [1, 1], "BYTES").set_data_from_numpy(np.array([[b"a"]], object))
    with strict.grpc_client() as client:
        client.start_stream(lambda result, error: replies.append(error), headers={"authorization": BEARER["indexer"]})
        client.async_stream_infer("bert-cls", [text])
        wait_for(lambda: len(replies) == 1)
        time.sleep(1.5)  # beyond SENDER_TIMEOUT
        client.async_stream_infer("bert-cls", [text])
        wait_for(lambda: len(replies) == 2)
    assert replies == [None, None]


def test_compressed_requests_are_refused(proxy: Proxy) -> None:
    headers = {**KNOWN, "Content-Encoding": "gzip"}
    assert ask(proxy.connection(), "POST", "/v2/models/bert-cls/infer", **headers).status == 415
    with proxy.grpc_client() as client, pytest.raises(InferenceServerException, match="no compressed request"):
        client.infer("bert-cls", [], headers={"authorization": BEARER["indexer"]}, compression_algorithm="gzip")


@both_wires
def test_each_name_has_its_own_allowance(scheme: str, upstream: ServeOptions, tmp_path: Path) -> None:
    with running_proxy(tmp_path, upstream, RATE="1r/m", BURST="2") as proxy, model_behind(proxy, scheme) as model:
        model.encode("a")
        model.encode("b")  # the third request: the constructor had made the first
        with pytest.raises(ServerUnavailableError, match="too many requests with this token") as refused:
            model.encode("c")
        assert refused.value.retry_after_s == 1
        reply = ask(proxy.connection(), "GET", "/v2", **KNOWN)
        assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
        assert ask(proxy.connection(), "GET", "/v2", Authorization=BEARER["indexer"]).status == 200


@both_wires
def test_a_triton_that_is_away_is_unavailable(scheme: str, tmp_path: Path, upstream: ServeOptions) -> None:
    nowhere = {f"{wire}_UPSTREAM": f"127.0.0.1:{free_ports(1)[0]}" for wire in ("HTTP", "GRPC")}
    unreached = pytest.raises(ServerUnavailableError, match="the proxy does not reach Triton")
    with running_proxy(tmp_path, upstream, **nowhere) as proxy, unreached:
        model_behind(proxy, scheme)


def test_plain_text_is_refused(proxy: Proxy) -> None:
    with pytest.raises(InvalidRequestError, match="speaks https alone"):
        FlagModel("bert-cls", url=f"http://localhost:{proxy.ports['https']}", headers=KNOWN, retries=0)
    with pytest.raises(ServerUnavailableError):
        FlagModel("bert-cls", url=f"grpc://localhost:{proxy.ports['grpcs']}", headers=KNOWN, retries=0)


def test_https_on_the_port_of_grpc_is_told_so(proxy: Proxy) -> None:
    with pytest.raises(InvalidRequestError, match="speaks gRPC alone"):
        FlagModel("bert-cls", url=f"https://localhost:{proxy.ports['grpcs']}", ssl=proxy.tls(), retries=0)


@both_wires
def test_the_proxy_is_not_trusted_without_its_authority(scheme: str, proxy: Proxy) -> None:
    with pytest.raises(ServerUnavailableError, match=r"(?i)certificate.verify.failed"):
        model_behind(proxy, scheme, ssl=TLS())


@both_wires
def test_client_certificates_can_be_demanded_beside_tokens(scheme: str, upstream: ServeOptions, tmp_path: Path) -> None:
    with running_proxy(tmp_path, upstream, CLIENT_CA="authority.pem") as proxy:
        with model_behind(proxy, scheme, ssl=proxy.tls("client.pem")) as model:
            assert model.encode("a").shape == (48,)
        for shown in (None, "stranger.pem"):
            with pytest.raises(AccessDeniedError, match="wants a client certificate"):
                model_behind(proxy, scheme, ssl=proxy.tls(shown))
        with pytest.raises(AccessDeniedError, match="Bearer TOKEN"):
            model_behind(proxy, scheme, ssl=proxy.tls("client.pem"), headers={})


@both_wires
def test_a_reload_changes_tokens_under_open_connections(scheme: str, upstream: ServeOptions, tmp_path: Path) -> None:
    def accepted(model: FlagModel) -> bool:
        try:
            model.encode("a")
        except AccessDeniedError:
            return False
        return True

    with running_proxy(tmp_path, upstream) as proxy, model_behind(proxy, scheme) as old:
        proxy.set_tokens({"search-team": "0e3" * 16, "indexer": TOKENS["indexer"]})
        proxy.reload()
        wait_for(lambda: not accepted(old))
        with model_behind(proxy, scheme, headers={"Authorization": f"Bearer {'0e3' * 16}"}) as new:
            assert accepted(new)


def test_the_log_names_who_asked_and_holds_neither_text_nor_token(upstream: ServeOptions, tmp_path: Path) -> None:
    with running_proxy(tmp_path, upstream) as proxy:
        for scheme in proxy.ports:
            with model_behind(proxy, scheme) as model:
                model.encode(TEXTS)
            with pytest.raises(AccessDeniedError):
                model_behind(proxy, scheme, headers={"Authorization": "Bearer guessed"})
        ask(proxy.connection(), "GET", f"/v2?{TOKENS['indexer']}", Authorization=BEARER["indexer"])
        wait_for(lambda: len(proxy.access_log()) == 7)
        entries = proxy.access_log()
    assert {(each["client"], Path(each["path"]).name, each["status"], each["grpc_status"]) for each in entries} == {
        ("search-team", "config", 200, ""),
        ("search-team", "infer", 200, ""),
        ("", "config", 401, ""),
        ("search-team", "ModelConfig", 200, "0"),
        ("search-team", "ModelInfer", 200, "0"),
        ("", "ModelConfig", 200, "16"),
        ("indexer", "v2", 200, ""),
    }
    written = (tmp_path / "access.log").read_text() + (tmp_path / "error.log").read_text()
    assert not [word for word in (*TEXTS[:1], *TOKENS.values(), "guessed", "Bearer") if word in written]
