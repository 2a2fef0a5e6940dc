# SPDX-License-Identifier: Apache-2.0
"""A server behind TLS and a secret header, and the SDK that has to show both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from flagtriton import TLS, FlagModel, FlagTritonError, ServerUnavailableError
from flagtriton_tools.checkpoint import inspect_checkpoint
from flagtriton_tools.deployments import AddOptions, build
from flagtriton_tools.launcher import running_server
from flagtriton_tools.repository import add_models
from tests.conftest import serve_options

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


@pytest.fixture(scope="module")
def port(folder: Path, authority: str, bert: Path) -> Iterator[int]:
    """Serve one deployment over gRPC with TLS, inference behind a secret; return the port."""
    add_models(build(inspect_checkpoint(str(bert)), AddOptions(name="tiny", precision="fp32")), folder / "repository")
    flags = (
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={folder / 'certificate.pem'}",
        f"--grpc-server-key={folder / 'key.pem'}",
        "--grpc-restricted-protocol=inference:x-key=open sesame",
    )
    with running_server(serve_options(folder / "repository", folder / "log", extra=flags)) as server:
        yield server.options.grpc_port


def test_the_right_certificate_and_header_get_answers(port: int, authority: str) -> None:
    model = FlagModel("tiny", url=f"grpcs://localhost:{port}", ssl=TLS(authority), headers=SECRET, use_fp16=False)
    assert model.encode(["a", "b"]).shape == (2, 48)


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
