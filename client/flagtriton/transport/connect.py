# SPDX-License-Identifier: Apache-2.0
"""`connect`: a transport for a URL. Imports gRPC or HTTP when a URL needs it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from socket import SOCK_STREAM
from urllib.parse import urlsplit

from flagtriton.errors import ServerUnavailableError
from flagtriton.transport.base import TLS, ServerAddress, Transport

__all__ = ["connect"]

_DEFAULT_URL = "grpc://localhost:8001"
_DNS_PREFIX = "dns+"


def connect(
    url: str | Sequence[str] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    tls: TLS | None = None,
    timeout_s: float = 60.0,
) -> Transport:
    """Return a transport to the server at `url`, or to several that serve the same. Nothing is sent yet.

    Args:
        url: `grpc://host:port`, `grpcs://…`, `http://…` or `https://…`, or several of them as a list or separated by
            commas. The prefix `dns+` stands for all addresses of the host name, looked up every 10 s. None takes the
            environment variable `FLAGTRITON_URL`, else `grpc://localhost:8001`.
        headers: headers of every request, e.g. `{"authorization": "Bearer …"}`.
        tls: certificates; None uses the system's for an encrypted URL.
        timeout_s: seconds that one try of one request may take.

    Raises:
        TypeError: `url` is neither a `str` nor a list of them.
        ValueError: `url` has another form.
        ServerUnavailableError: a `dns+` host name cannot be resolved.
    """
    urls = _urls(os.environ.get("FLAGTRITON_URL") or _DEFAULT_URL if url in (None, "") else url)
    plain = [each for each in urls if not each.startswith(_DNS_PREFIX)]
    addresses = [ServerAddress.parse(each.removeprefix(_DNS_PREFIX)) for each in urls]
    open_transport = partial(_open, headers=dict(headers or {}), tls=tls, timeout_s=timeout_s)
    if len(urls) == len(plain) == 1:
        return open_transport(addresses[0])
    from flagtriton.transport.balanced import BalancedTransport

    try:
        return BalancedTransport(open_transport, partial(_resolve, urls))
    except OSError as error:
        raise ServerUnavailableError(f"{', '.join(urls)}: {error}") from error


def _urls(url: str | Sequence[str]) -> list[str]:
    """Return the argument as a list of URLs."""
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


def _resolve(urls: Sequence[str]) -> list[ServerAddress]:
    """Return the servers' addresses; one for every IP address of a host name after `dns+`.

    Raises:
        OSError: a host name cannot be resolved.
        ValueError: the URL is `dns+https://…`, whose certificate is for the host name.
    """
    resolved = []
    for url in urls:
        address = ServerAddress.parse(url.removeprefix(_DNS_PREFIX))
        if not url.startswith(_DNS_PREFIX):
            resolved.append(address)
            continue
        if address.wire == "http" and address.secure:
            raise ValueError(f"server URL is {url!r}; over https send to the name itself, or use dns+grpcs://")
        split = urlsplit(f"//{address.host_and_port}")
        hosts = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(split.hostname, split.port, type=SOCK_STREAM)})
        for host in hosts:
            host_and_port = f"{f'[{host}]' if ':' in host else host}:{split.port}{split.path}"
            resolved.append(replace(address, host_and_port=host_and_port, name=split.hostname))
    return resolved
