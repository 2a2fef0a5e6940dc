# SPDX-License-Identifier: Apache-2.0
"""A server behind TLS and a secret header, and the SDK that has to show both."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
import trustme
from tritonclient.utils import InferenceServerException

from flagtriton import TLS, FlagModel, FlagTritonError, InvalidRequestError, ServerUnavailableError
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.tritonserver.admin import SECRET_HEADER, Admin
from flagtriton_tools.tritonserver.options import ServeOptions
from tests.conftest import Served, serve_options

pytestmark = pytest.mark.server

SECRET = {"triton-grpc-protocol-x-key": "open sesame"}  # the prefix is Triton's


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secured")


@pytest.fixture(scope="module")
def authority(folder: Path) -> str:
    """Write the certificates; return the authority's file."""
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    ca.cert_pem.write_to_path(folder / "authority.pem")
    return str(folder / "authority.pem")


@pytest.fixture
def https_port(served: Served, authority: str, folder: Path) -> Iterator[int]:
    """Put a proxy that ends TLS before the shared server's HTTP, as a gateway would be; return its port."""
    upstream = ("127.0.0.1", served.server.options.http_port)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    started: Future[tuple[int, Callable[[], None]]] = Future()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # a client may go without a word
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*upstream)
        ends = (writer, up_writer)
        try:
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
        finally:
            for end in ends:
                end.close()
            await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)

    async def proxy() -> None:
        connections: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(asyncio.ensure_future(connect(reader, writer)))

        stopped = asyncio.Event()
        stop = partial(asyncio.get_running_loop().call_soon_threadsafe, stopped.set)
        async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server:
            started.set_result((server.sockets[0].getsockname()[1], stop))
            await stopped.wait()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    thread = threading.Thread(target=asyncio.run, args=(proxy(),))
    thread.start()
    port, stop = started.result(timeout=30)
    yield port
    stop()
    thread.join()


@pytest.fixture(scope="module")
def port(folder: Path, authority: str, bert: Path) -> Iterator[int]:
    """Serve one deployment over gRPC with TLS, inference behind a secret; return the port."""
    add_models(build(inspect_checkpoint(str(bert)), AddOptions(name="tiny", precision="fp32")), folder / "repository")
    options = serve_options(
        folder / "repository",
        folder / "log",
        tls_certificate=folder / "certificate.pem",
        tls_key=folder / "key.pem",
        extra=("--grpc-restricted-protocol=inference:x-key=open sesame",),
    )
    with running_server(options) as server:
        yield server.options.grpc_port


@pytest.fixture(scope="module")
def mutual(folder: Path, authority: str, bert: Path) -> Iterator[ServeOptions]:
    """Serve one deployment to clients whose certificate is the authority's own."""
    models = build(inspect_checkpoint(str(bert)), AddOptions(name="tiny", precision="fp32", pool_in_encoder=True))
    add_models(models, folder / "mutual")
    options = serve_options(
        folder / "mutual",
        folder / "mutual.log",
        tls_certificate=folder / "certificate.pem",
        tls_key=folder / "key.pem",
        tls_client_ca=Path(authority),
    )
    with running_server(options) as server:
        yield server.options


def test_clients_without_a_certificate_do_not_connect_where_one_is_asked_for(
    mutual: ServeOptions, authority: str, folder: Path
) -> None:
    own = TLS(authority, str(folder / "key.pem"), str(folder / "certificate.pem"))
    with FlagModel("tiny", url=f"grpcs://localhost:{mutual.grpc_port}", ssl=own, use_fp16=False) as model:
        assert model.encode("a").shape == (48,)
    with pytest.raises(ServerUnavailableError):
        FlagModel("tiny", url=f"grpcs://localhost:{mutual.grpc_port}", ssl=TLS(authority), retries=0)


def test_admin_operations_need_the_secret_on_both_wires_and_all_else_needs_none(served: Served) -> None:
    options, secret = served.server.options, served.server.secret
    assert Admin(options.http_url, secret).states()
    for operation in ("/v2/repository/index", "/v2/systemsharedmemory/region/x/register", "/v2/logging"):
        assert Admin(options.http_url).post(operation, {}).status == 403
    assert Admin(options.http_url).get("/v2/models/bert-cls/config").status == 200
    with triton.InferenceServerClient(served.grpc_url.split("//")[1]) as client:
        with pytest.raises(InferenceServerException, match="expecting header"):
            client.load_model("bert-cls")
        headers = {f"triton-grpc-protocol-{SECRET_HEADER}": secret}
        assert client.get_model_repository_index(headers=headers).models


def test_the_secret_does_not_stand_in_the_list_of_processes_nor_in_the_log(served: Served) -> None:
    secret = served.server.secret
    assert secret is not None
    command = Path(f"/proc/{served.server.process.pid}/cmdline").read_bytes()
    assert b"--http-restricted-api" in command
    assert secret.encode() not in command
    assert served.server.options.log_file is not None
    assert secret not in served.server.options.log_file.read_text(errors="replace")


def test_no_text_stands_in_the_log(served: Served) -> None:
    with FlagModel("bert-cls", url=served.grpc_url, use_fp16=False) as model:
        model.encode(["a very private remark", "another"])
        with pytest.raises(InvalidRequestError) as refused:
            model.encode(["averyprivateremark" * 70_000])  # one word, which cannot be cut
    assert "private" not in str(refused.value)
    assert served.server.options.log_file is not None
    assert "private remark" not in served.server.options.log_file.read_text(errors="replace")


def test_the_right_certificate_and_header_get_answers(port: int, authority: str) -> None:
    model = FlagModel("tiny", url=f"grpcs://localhost:{port}", ssl=TLS(authority), headers=SECRET, use_fp16=False)
    assert model.encode(["a", "b"]).shape == (2, 48)


def test_https_through_a_gateway_gets_the_same_answers(https_port: int, authority: str, served: Served) -> None:
    with FlagModel("bert-cls", url=served.grpc_url, use_fp16=False) as model:
        expected = model.encode(["a", "b"])
    with FlagModel("bert-cls", url=f"https://localhost:{https_port}", ssl=TLS(authority), use_fp16=False) as model:
        assert np.array_equal(model.encode(["a", "b"]), expected)


def test_https_does_not_trust_an_unknown_authority(https_port: int) -> None:
    with pytest.raises(FlagTritonError, match=f"https://localhost:{https_port}"):
        FlagModel("bert-cls", url=f"https://localhost:{https_port}", retries=0)


def test_ssl_may_be_asked_for_beside_a_plain_scheme(port: int, authority: str) -> None:
    model = FlagModel("tiny", url=f"grpc://localhost:{port}", ssl=TLS(authority), headers=SECRET, use_fp16=False)
    assert model.encode("a").shape == (48,)


def test_without_the_header_inference_is_refused(port: int, authority: str) -> None:
    # Triton answers UNAVAILABLE here, where others say PERMISSION_DENIED.
    model = FlagModel("tiny", url=f"grpcs://localhost:{port}", ssl=TLS(authority), use_fp16=False, retries=0)
    with pytest.raises(ServerUnavailableError, match="expecting header 'triton-grpc-protocol-x-key'"):
        model.encode("a")


@pytest.mark.parametrize("scheme", ["grpc", "grpcs"])
def test_plain_text_and_unknown_authorities_do_not_connect(scheme: str, port: int) -> None:
    with pytest.raises(FlagTritonError, match=f"{scheme}://localhost:{port}"):
        FlagModel("tiny", url=f"{scheme}://localhost:{port}", headers=SECRET, retries=0)
