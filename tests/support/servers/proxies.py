# SPDX-License-Identifier: Apache-2.0
"""The recipe of docs/proxy.md, run: a real nginx on the rendered template, before a server that is running."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import tritonclient.grpc as triton
import trustme

from flagtriton import TLS
from flagtriton_tools.tritonserver.options import ServeOptions, free_ports
from tests.support.paths import ROOT
from tests.support.waiting import listens, wait_for

__all__ = ["CAN_RUN", "TOKENS", "Proxy", "Reply", "ask", "running_proxy"]

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"  # where Debian has nginx, and not every user looks
_NGINX = shutil.which("nginx", path=_PATH) or "nginx"
_RENDER = ROOT / "docker" / "nginx" / "render.sh"

CAN_RUN = all(shutil.which(command, path=_PATH) for command in ("nginx", "envsubst"))
TOKENS = {"search-team": "5ea4c4" * 8, "indexer": "14de7e" * 8}
"""Those that every proxy starts with, by name."""


@dataclass(frozen=True)
class Reply:
    """What came back over HTTP, its body read as JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Proxy:
    """A running nginx.

    Attributes:
        folder: its configuration, certificates and logs.
        ports: by the scheme of their URLs.
    """

    folder: Path
    ports: dict[str, int]

    def url(self, scheme: str) -> str:
        return f"{scheme}://localhost:{self.ports[scheme]}"

    def tls(self, certificate: str | None = None) -> TLS:
        """Return what trusts the proxy, and shows this client certificate: `client.pem` or `stranger.pem`."""
        shown = None if certificate is None else str(self.folder / certificate)
        return TLS(str(self.folder / "authority.pem"), shown, shown)

    def connection(self) -> HTTPSConnection:
        context = ssl.create_default_context(cafile=self.folder / "authority.pem")
        return HTTPSConnection("localhost", self.ports["https"], context=context, timeout=30)

    def grpc_client(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(
            f"localhost:{self.ports['grpcs']}",
            ssl=True,
            root_certificates=self.tls().root_certificates,
            channel_args=[("grpc.enable_http_proxy", 0)],
        )

    def set_tokens(self, tokens: Mapping[str, str]) -> None:
        """Write the tokens, by name; nginx reads them at its next start or reload."""
        lines = [f'"Bearer {token}" "{name}";\n' for name, token in tokens.items()]
        (self.folder / "tokens.conf").write_text("".join(lines))

    def reload(self) -> None:
        command = [_NGINX, "-p", self.folder, "-c", "flagtriton.conf", "-s", "reload"]
        subprocess.run(command, check=True, capture_output=True)

    def access_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]


@contextmanager
def running_proxy(folder: Path, upstream: ServeOptions, **settings: str) -> Iterator[Proxy]:
    """Render the template with `settings`, which are named without `FLAGTRITON_`, and run nginx on it."""
    https_port, grpcs_port = free_ports(2)
    given = {
        "HTTPS_LISTEN": f"127.0.0.1:{https_port}",
        "GRPCS_LISTEN": f"127.0.0.1:{grpcs_port}",
        "HTTP_UPSTREAM": f"127.0.0.1:{upstream.http_port}",
        "GRPC_UPSTREAM": f"127.0.0.1:{upstream.grpc_port}",
        **settings,
    }
    environment = {f"FLAGTRITON_{name}": value for name, value in given.items()}
    subprocess.run([_RENDER, folder], env={"PATH": _PATH, **environment}, check=True)
    proxy = Proxy(folder, {"https": https_port, "grpcs": grpcs_port})
    proxy.set_tokens(TOKENS)
    _write_certificates(folder)
    # The workers of a server that root starts are nobody's, and pytest's folders keep nobody out.
    user = "user root;" if os.geteuid() == 0 else ""
    command = [_NGINX, "-p", folder, "-c", "flagtriton.conf", "-g", f"daemon off; {user}"]
    with (folder / "error.log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            wait_for(lambda: process.poll() is not None or listens(https_port))
            assert process.poll() is None, (folder / "error.log").read_text()
            yield proxy
        finally:
            process.terminate()


def ask(connection: HTTPConnection, method: str, path: str, **headers: str) -> Reply:
    """Return the reply to a bare request, its path sent as it stands."""
    with closing(connection):
        connection.request(method, path, b"{}" if method == "POST" else None, headers)
        reply = connection.getresponse()
        return Reply(reply.status, reply.headers, json.loads(reply.read() or "null"))


def _write_certificates(folder: Path) -> None:
    authority, another = trustme.CA(), trustme.CA()
    server = authority.issue_cert("localhost")
    server.private_key_pem.write_to_path(folder / "key.pem")
    server.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
    another.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(folder / "stranger.pem")
