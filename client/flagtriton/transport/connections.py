# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 connections to one server: kept for the next request, shared by all threads, never by two processes.

Knows nothing of Triton. Holds no lock, so that a fork cannot leave one locked.
"""

from __future__ import annotations

import gzip
import io
import os
import select
import socket
import ssl
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from flagtriton.transport.forks import across_forks

__all__ = ["Connections", "HttpAnswer"]

_MOST_IDLE = 64
_CONNECT_S = 10.0
"""A node that drops packets is given up after this, as long as the request has time left."""

_PIECE = 262_144


class HttpAnswer:
    """A whole answer, read as tritonclient reads those of its own HTTP client.

    Args:
        status_code: HTTP's.
        headers: by name in small letters.
        body: not compressed any more.
    """

    def __init__(self, status_code: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status_code = status_code
        self.headers = headers
        self.body = body
        self._rest = io.BytesIO(body)

    def get(self, name: str) -> str | None:
        """Return a header; the body's encoding is none any more."""
        return None if name.lower() == "content-encoding" else self.headers.get(name.lower())

    def read(self, length: int = -1) -> bytes:
        """Return the next `length` bytes of the body, or all that are left."""
        return self._rest.read(length)


@dataclass(eq=False)
class _Kept:
    """A connection, the process that it belongs to, and since when it has been idle, by the monotonic clock."""

    connection: HTTPConnection
    process: int = field(default_factory=os.getpid)
    since: float = field(default_factory=time.monotonic)

    def is_usable(self) -> bool:
        """Return whether this process opened it, and the server neither closed it nor sent what nobody asked for."""
        return self.process == os.getpid() and not _is_readable(self.connection.sock)


class Connections:
    """Connections to one server. Safe to share between threads.

    A process that was forked from this one opens its own: what is idle here is closed there, without a word to the
    server.

    Args:
        host_and_port: with a path, it stands before every request's.
        tls: makes the context of each connection; None speaks plain text.
    """

    def __init__(self, host_and_port: str, tls: Callable[[], ssl.SSLContext] | None) -> None:
        parts = urlsplit(f"//{host_and_port}")
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path
        self._tls = tls
        self._idle: deque[_Kept] = deque()
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        across_forks(self)

    def ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> HttpAnswer:
        """Return the answer to one request.

        Args:
            method: GET or POST.
            path: without a slash before it.
            body: of a POST.
            headers: beside those that HTTP needs.
            timeout_s: seconds from connecting to the answer's last byte.

        Raises:
            TimeoutError: they were not enough; all connections that were idle before are given up, too.
            OSError: the connection cannot be made, or broke.
            HTTPException: what came is not HTTP, or not all of it came.
        """
        began = time.monotonic()
        until = began + timeout_s
        kept = self._taken()
        if kept is not None:
            try:
                return self._answer(kept, method, path, body, headers, until)
            except (ConnectionError, ssl.SSLError):  # it had been closed while it was idle: a new one will do
                pass
            except TimeoutError:
                self._give_up_older(began)
                raise
        try:
            return self._answer(_Kept(self._opened(until)), method, path, body, headers, until)
        except TimeoutError:
            self._give_up_older(began)
            raise

    def close(self) -> None:
        """Close all that are idle, and from now on each that becomes so."""
        self._finalizer()

    def after_fork_in_child(self) -> None:
        """Close, in a new process, what belongs to the one that it was forked from."""
        _close_all(self._idle)

    def _taken(self) -> _Kept | None:
        while self._idle:
            try:
                kept = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if kept.is_usable():
                return kept
            kept.connection.close()
        return None

    def _give_up_older(self, moment: float) -> None:
        """Close what has been idle since before some moment: it leads where no answer comes from."""
        for _ in range(len(self._idle)):
            try:
                kept = self._idle.popleft()
            except IndexError:
                return
            if kept.since < moment:
                kept.connection.close()
            else:
                self._idle.append(kept)

    def _opened(self, until: float) -> HTTPConnection:
        connect_s = min(_CONNECT_S, _left_s(until))
        if self._tls is None:
            connection = HTTPConnection(self._host, self._port, timeout=connect_s)
        else:
            connection = HTTPSConnection(self._host, self._port, timeout=connect_s, context=self._tls())
        try:
            connection.connect()
        except TimeoutError as error:
            connection.close()
            if until > time.monotonic():
                raise ConnectionError(f"no connection within {connect_s:.3g} s") from error
            raise
        except BaseException:
            connection.close()
            raise
        return connection

    def _answer(
        self, kept: _Kept, method: str, path: str, body: bytes | None, headers: Mapping[str, str], until: float
    ) -> HttpAnswer:
        connection = kept.connection
        is_reusable = False
        try:
            whole = _send(connection, method, f"{self._path}/{path}", body, headers, until)
            connection.response_class = _timed_response(until)
            response = connection.getresponse()
            answered = {name.lower(): value for name, value in response.getheaders()}
            answer = HttpAnswer(response.status, answered, _decoded(response.read(), answered))
            is_reusable = whole and not response.will_close
        finally:
            if is_reusable and len(self._idle) < _MOST_IDLE and self._finalizer.alive:
                self._idle.append(_Kept(connection))
            else:
                connection.close()
        return answer


def _send(
    connection: HTTPConnection, method: str, path: str, body: bytes | None, headers: Mapping[str, str], until: float
) -> bool:
    """Send a request; return whether all of it went. A server that refuses a large body may answer before that."""
    connection.sock.settimeout(_left_s(until))
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    try:
        connection.endheaders()
        rest = memoryview(body or b"")
        for start in range(0, len(rest), _PIECE):
            # In TLS what is to be read may be a ticket rather than an answer.
            if start and not isinstance(connection.sock, ssl.SSLSocket) and _is_readable(connection.sock):
                return False
            connection.sock.settimeout(_left_s(until))
            connection.sock.sendall(rest[start : start + _PIECE])
    except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):  # there may be an answer nevertheless
        return False
    return True


def _timed_response(until: float) -> type[HTTPResponse]:
    """Return what reads an answer until a moment, however slowly its bytes come."""

    class Response(HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: object, **named: object) -> None:
            super().__init__(sock, *arguments, **named)  # type: ignore[arg-type]
            self.fp = io.BufferedReader(_TimedReader(sock, until, self.fp), 65_536)

    return Response


class _TimedReader(io.RawIOBase):
    """A socket's bytes until a moment by the monotonic clock."""

    def __init__(self, sock: socket.socket, until: float, file: io.BufferedIOBase) -> None:
        self._sock, self._until, self._file = sock, until, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(_left_s(self._until))
        return self._file.readinto1(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _left_s(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _is_readable(sock: socket.socket) -> bool:
    """Return whether there is something to read, which may be the end."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _decoded(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a body as it was before it was compressed.

    Raises:
        HTTPException: it cannot be.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    try:
        if encoding in ("gzip", "x-gzip"):
            return gzip.decompress(body)
        if encoding == "deflate":
            return zlib.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise HTTPException(f"the answer's body is not {encoding}: {error}") from error
    if encoding not in ("", "identity"):
        raise HTTPException(f"the answer's body is in {encoding}, which nobody asked for")
    return body


def _close_all(idle: deque[_Kept]) -> None:
    while idle:
        try:
            idle.pop().connection.close()
        except IndexError:
            return
