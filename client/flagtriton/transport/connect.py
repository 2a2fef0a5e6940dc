# SPDX-License-Identifier: Apache-2.0
"""The two wires to Triton, behind one small interface; no other module of the SDK imports tritonclient."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from socket import SOCK_STREAM
from urllib.parse import urlsplit

from flagtriton.errors import ServerUnavailableError
from flagtriton.transport.base import TLS, Deadline, InferenceReply, ModelConfig, ServerAddress, Transport

__all__ = [
    "TLS",
    "Deadline",
    "InferenceReply",
    "ModelConfig",
    "ServerAddress",
    "Transport",
    "connect",
]

_DEFAULT_URL = "grpc://localhost:8001"
_LOOKED_UP = "dns+"


def connect(
    url: str | Sequence[str] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    tls: TLS | None = None,
    timeout_s: float = 60.0,
) -> Transport:
    """Return a transport to the server at `url`, or to several that serve the same; nothing is sent yet.

    Args:
        url: `grpc://host:port`, `grpcs://…`, `http://…` or `https://…`; several of them, as a list or with commas
            between; or with `dns+` before it all servers that the host's name stands for, looked up every 10 s. None
            takes the environment variable `FLAGTRITON_URL`, else `grpc://localhost:8001`.
        headers: sent with every request, e.g. `{"authorization": "Bearer …"}`.
        tls: certificates, where the system's own do not do.
        timeout_s: seconds that one try of one request may take.

    Raises:
        TypeError: `url` is something else.
        ValueError: it has another form.
        ServerUnavailableError: nobody knows the name.
    """
    urls = _urls(os.environ.get("FLAGTRITON_URL") or _DEFAULT_URL if url in (None, "") else url)
    plain = [each for each in urls if not each.startswith(_LOOKED_UP)]
    addresses = [ServerAddress.parse(each.removeprefix(_LOOKED_UP)) for each in urls]
    opened = partial(_open, headers=dict(headers or {}), tls=tls, timeout_s=timeout_s)
    if len(urls) == len(plain) == 1:
        return opened(addresses[0])
    from flagtriton.transport.balanced import BalancedTransport

    try:
        return BalancedTransport(opened, partial(_looked_up, urls))
    except OSError as error:
        raise ServerUnavailableError(f"{', '.join(urls)}: {error}") from error


def _urls(url: str | Sequence[str]) -> list[str]:
    """Return the URLs that came."""
    if isinstance(url, str):
        return [each.strip() for each in url.split(",")]
    if not isinstance(url, (list, tuple)) or not all(isinstance(each, str) for each in url):
        raise TypeError(f"server URL is {url!r}, a {type(url).__name__}; expected a str or a list of them")
    if not url:
        raise ValueError("the list of server URLs is empty")
    return list(url)


def _open(address: ServerAddress, *, headers: Mapping[str, str], tls: TLS | None, timeout_s: float) -> Transport:
    certificates = tls if tls is not None else TLS() if address.secure else None
    address = replace(address, secure=certificates is not None)
    if address.wire == "grpc":
        from flagtriton.transport.grpc import GrpcTransport

        return GrpcTransport(address, headers, certificates, timeout_s)
    from flagtriton.transport.http import HttpTransport

    return HttpTransport(address, headers, certificates, timeout_s)


def _looked_up(urls: Sequence[str]) -> list[ServerAddress]:
    """Return the servers at some URLs: at those to look up, each that the name stands for.

    Raises:
        OSError: a name cannot be looked up.
        ValueError: HTTP in TLS is to be looked up: its certificates are for names.
    """
    found = []
    for url in urls:
        address = ServerAddress.parse(url.removeprefix(_LOOKED_UP))
        if not url.startswith(_LOOKED_UP):
            found.append(address)
            continue
        if address.wire == "http" and address.secure:
            raise ValueError(f"server URL is {url!r}; over https send to the name itself, or use dns+grpcs://")
        parts = urlsplit(f"//{address.host_and_port}")
        hosts = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, parts.port, type=SOCK_STREAM)})
        for host in hosts:
            at = f"{f'[{host}]' if ':' in host else host}:{parts.port}{parts.path}"
            found.append(replace(address, host_and_port=at, name=parts.hostname))
    return found
