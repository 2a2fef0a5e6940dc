# SPDX-License-Identifier: Apache-2.0
"""Diagnosis of a URL that got no reply: the server may speak another protocol than the URL's scheme.

The diagnosis sends a few bytes on its own connections. It returns None if the protocol is uncertain.
"""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import suppress
from enum import Enum
from urllib.parse import SplitResult, urlsplit

from flagtriton.errors import WrongServerError
from flagtriton.transport.base import TLS, ServerAddress

__all__ = ["wrong_server"]

_WAIT_S = 0.4
"""Seconds that each connection and each read may take."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The HTTP/2 connection preface, followed by an empty SETTINGS frame."""

_PORTS = "Triton's ports are 8000 for HTTP, 8001 for gRPC and 8002 for metrics unless it was started with others"


class _Protocol(Enum):
    """The protocol of a server's reply."""

    HTTP_1 = "HTTP/1.1"
    HTTP_2 = "HTTP/2"
    TLS = "TLS"


def wrong_server(address: ServerAddress, tls: TLS | None) -> WrongServerError | None:
    """Return an error that names the right scheme if the server speaks another protocol than the URL's; else None."""
    target = urlsplit(f"//{address.host_and_port}")
    try:
        advice = _advice_in_tls(address, target, tls or TLS()) if address.secure else _advice(address, target)
    except OSError:  # no server listens there
        return None
    return None if advice is None else WrongServerError(f"{address}: {advice}. {_PORTS}")


def _advice(address: ServerAddress, target: SplitResult) -> str | None:
    """Return advice about a server that should speak plain text; None if it does."""
    if address.wire == "grpc" and _protocol_of(target, _PREFACE) is _Protocol.HTTP_2:
        return None
    protocol = _protocol_of(target, _hello(target))
    if address.wire == "http" and protocol is _Protocol.HTTP_1 and not _handshake(target, ["http/1.1"]):
        return None
    if protocol is _Protocol.HTTP_2:
        return f"the server speaks gRPC: use grpc://{target.netloc}" if address.wire == "http" else None
    if protocol is _Protocol.TLS or _handshake(target, ["h2", "http/1.1"]):
        return f"the server speaks TLS: use {address.wire}s://{address.host_and_port}"
    if protocol is not _Protocol.HTTP_1:
        return None
    if _is_triton(target):
        return f"the server speaks HTTP/1.1, not gRPC: use http://{target.netloc}"
    return "an HTTP server that is not Triton's answers, as on its metrics port: name Triton's gRPC port"


def _advice_in_tls(address: ServerAddress, target: SplitResult, tls: TLS) -> str | None:
    """Return advice about a server that should speak TLS; None if it does."""
    handshake = _handshake(target, ["h2" if address.wire == "grpc" else "http/1.1"])
    if handshake is None:
        protocol = _protocol_of(target, _hello(target))
        if protocol is _Protocol.HTTP_1:
            return f"the server does not speak TLS but plain HTTP/1.1: use http://{target.netloc}"
        if protocol is _Protocol.HTTP_2:
            return f"the server does not speak TLS but plain gRPC: use grpc://{target.netloc}"
        return None
    if address.wire == "grpc" and handshake != "h2" and _handshake(target, ["http/1.1"]) is not None:
        return f"the server speaks HTTP/1.1 in TLS, not gRPC: use https://{target.netloc}, or another port"
    return _certificate_problem(address, target, tls)


def _certificate_problem(address: ServerAddress, target: SplitResult, tls: TLS) -> str | None:
    """Return why a server's certificate is not trusted; None if it is."""
    context = ssl.create_default_context(cafile=tls.root_certificates)
    name = address.name or target.hostname
    try:
        with _connected(target) as plain, context.wrap_socket(plain, server_hostname=name):
            return None
    except ssl.SSLCertVerificationError as error:
        return (
            f"certificate verify failed: {error.verify_message}; name its authority by "
            "ssl=flagtriton.TLS(root_certificates=…), or the host as the certificate does"
        )


def _connected(target: SplitResult) -> socket.socket:
    connection = socket.create_connection((target.hostname or "", target.port or 0), _WAIT_S)
    connection.settimeout(_WAIT_S)
    return connection


def _protocol_of(target: SplitResult, payload: bytes) -> _Protocol | None:
    """Return the protocol of a server's reply to `payload`; None if it is unknown.

    Raises:
        OSError: the server cannot be reached.
    """
    answer = _exchange(target, payload, 9)
    if answer.startswith(b"HTTP/"):
        return _Protocol.HTTP_1
    if len(answer) >= 9 and answer[3] == 4 and answer[5:9] == b"\0\0\0\0":  # a SETTINGS frame
        return _Protocol.HTTP_2
    if answer[:2] == b"\x15\x03":  # a TLS alert
        return _Protocol.TLS
    return None


def _exchange(target: SplitResult, payload: bytes, max_bytes: int) -> bytes:
    """Return the server's reply, `max_bytes` bytes at most."""
    answer = b""
    with _connected(target) as connection, suppress(TimeoutError, ConnectionError):
        connection.sendall(payload)
        while len(answer) < max_bytes and (chunk := connection.recv(max_bytes)):
            answer += chunk
    return answer


def _hello(target: SplitResult) -> bytes:
    """Return an HTTP request for Triton's server metadata."""
    return f"GET {target.path}/v2 HTTP/1.1\r\nHost: {target.netloc}\r\nConnection: close\r\n\r\n".encode()


def _is_triton(target: SplitResult) -> bool:
    """Return whether an HTTP server's metadata are Triton's."""
    _, _, body = _exchange(target, _hello(target), 65_536).partition(b"\r\n\r\n")
    try:
        return "extensions" in json.loads(body)
    except (ValueError, TypeError):
        return False


def _handshake(target: SplitResult, protocols: list[str]) -> str | None:
    """Return the protocol that a server selects in its TLS handshake.

    The certificate is not verified.

    Returns:
        One of `protocols`, "" if the server selects none of them, or None if it speaks no TLS.

    Raises:
        OSError: the server cannot be reached.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    connection = _connected(target)
    try:
        with context.wrap_socket(connection, server_hostname=target.hostname) as encrypted:
            return encrypted.selected_alpn_protocol() or ""
    except ssl.SSLError as error:
        # A server that demands another protocol or a client certificate speaks TLS.
        return "" if "ALERT" in str(error.reason) else None
    except (TimeoutError, ConnectionError):
        return None
    finally:
        connection.close()
