# SPDX-License-Identifier: Apache-2.0
"""What speaks at an address that no answer came from: another protocol than the URL's scheme, perhaps.

Asks with a few bytes on connections of its own. Says nothing where it is not sure.
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
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""How HTTP/2 begins: fixed bytes, and a frame with no settings."""

_PORTS = "Triton's ports are 8000 for HTTP, 8001 for gRPC and 8002 for metrics unless it was started with others"


class _Spoken(Enum):
    """What a server answered in."""

    HTTP_1 = "HTTP/1.1"
    HTTP_2 = "HTTP/2"
    TLS = "TLS"


def wrong_server(address: ServerAddress, tls: TLS | None) -> WrongServerError | None:
    """Return an error that says which scheme to use, if another protocol is spoken than that of the URL."""
    place = urlsplit(f"//{address.host_and_port}")
    try:
        advice = _advice_in_tls(address, place, tls or TLS()) if address.secure else _advice(address, place)
    except OSError:  # nobody is there
        return None
    return None if advice is None else WrongServerError(f"{address}: {advice}. {_PORTS}")


def _advice(address: ServerAddress, place: SplitResult) -> str | None:
    """Return what to do about a server that should speak plain text; None where it does."""
    if address.wire == "grpc" and _spoken(place, _PREFACE) is _Spoken.HTTP_2:
        return None
    spoken = _spoken(place, _hello(place))
    if address.wire == "http" and spoken is _Spoken.HTTP_1 and not _handshake(place, ["http/1.1"]):
        return None
    if spoken is _Spoken.HTTP_2:
        return f"the server speaks gRPC: use grpc://{place.netloc}" if address.wire == "http" else None
    if spoken is _Spoken.TLS or _handshake(place, ["h2", "http/1.1"]):
        return f"the server speaks TLS: use {address.wire}s://{address.host_and_port}"
    if spoken is not _Spoken.HTTP_1:
        return None
    if _is_triton(place):
        return f"the server speaks HTTP/1.1, not gRPC: use http://{place.netloc}"
    return "an HTTP server that is not Triton's answers, as on its metrics port: name Triton's gRPC port"


def _advice_in_tls(address: ServerAddress, place: SplitResult, tls: TLS) -> str | None:
    """Return what to do about a server that should speak TLS; None where it does."""
    handshake = _handshake(place, ["h2" if address.wire == "grpc" else "http/1.1"])
    if handshake is None:
        spoken = _spoken(place, _hello(place))
        if spoken is _Spoken.HTTP_1:
            return f"the server does not speak TLS but plain HTTP/1.1: use http://{place.netloc}"
        if spoken is _Spoken.HTTP_2:
            return f"the server does not speak TLS but plain gRPC: use grpc://{place.netloc}"
        return None
    if address.wire == "grpc" and handshake != "h2" and _handshake(place, ["http/1.1"]) is not None:
        return f"the server speaks HTTP/1.1 in TLS, not gRPC: use https://{place.netloc}, or another port"
    return _distrust(address, place, tls)


def _distrust(address: ServerAddress, place: SplitResult, tls: TLS) -> str | None:
    """Return why a server's certificate is not trusted; None where it is."""
    context = ssl.create_default_context(cafile=tls.root_certificates)
    name = address.name or place.hostname
    try:
        with _connected(place) as plain, context.wrap_socket(plain, server_hostname=name):
            return None
    except ssl.SSLCertVerificationError as error:
        return (
            f"certificate verify failed: {error.verify_message}; name its authority by "
            "ssl=flagtriton.TLS(root_certificates=…), or the host as the certificate does"
        )


def _connected(place: SplitResult) -> socket.socket:
    connection = socket.create_connection((place.hostname or "", place.port or 0), _WAIT_S)
    connection.settimeout(_WAIT_S)
    return connection


def _spoken(place: SplitResult, sent: bytes) -> _Spoken | None:
    """Return what a server answers in to some bytes, or None where that cannot be told.

    Raises:
        OSError: it cannot be reached.
    """
    answer = _exchange(place, sent, 9)
    if answer.startswith(b"HTTP/"):
        return _Spoken.HTTP_1
    if len(answer) >= 9 and answer[3] == 4 and answer[5:9] == b"\0\0\0\0":  # the frame of a server's settings
        return _Spoken.HTTP_2
    if answer[:2] == b"\x15\x03":  # an alert
        return _Spoken.TLS
    return None


def _exchange(place: SplitResult, sent: bytes, most: int) -> bytes:
    """Return what comes back, up to `most` bytes or the end."""
    answer = b""
    with _connected(place) as connection, suppress(TimeoutError, ConnectionError):
        connection.sendall(sent)
        while len(answer) < most and (more := connection.recv(most)):
            answer += more
    return answer


def _hello(place: SplitResult) -> bytes:
    """Return a request for what a server says of itself."""
    return f"GET {place.path}/v2 HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode()


def _is_triton(place: SplitResult) -> bool:
    """Return whether an HTTP server calls itself Triton."""
    _, _, body = _exchange(place, _hello(place), 65_536).partition(b"\r\n\r\n")
    try:
        return "extensions" in json.loads(body)
    except (ValueError, TypeError):
        return False


def _handshake(place: SplitResult, protocols: list[str]) -> str | None:
    """Return the protocol that a server chooses in TLS, "" where it chooses none, and None where it speaks no TLS.

    No certificate is looked at.

    Raises:
        OSError: it cannot be reached.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    connection = _connected(place)
    try:
        with context.wrap_socket(connection, server_hostname=place.hostname) as encrypted:
            return encrypted.selected_alpn_protocol() or ""
    except ssl.SSLError as error:
        # A server that wants another protocol, or a certificate, does speak TLS.
        return "" if "ALERT" in str(error.reason) else None
    except (TimeoutError, ConnectionError):
        return None
    finally:
        connection.close()
