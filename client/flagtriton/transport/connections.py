# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 keep-alive connections to one server, shared by all threads of one process.

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

from flagtriton.transport.forks import notify_on_fork

__all__ = ["Connections", "HttpReply"]

_MAX_IDLE = 64
_CONNECT_S = 10.0
"""Seconds that connecting may take, at most: the limit for a node that drops packets."""

_CHUNK_BYTES = 262_144


class HttpReply:
    """A complete reply, with the methods by which tritonclient reads its own HTTP client's.

    Args:
        status_code: HTTP status code.
        headers: headers by lower-case name.
        body: decompressed body.
    """

    def __init__(self, status_code: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status_code = status_code
        self.headers = headers
        self.body = body
        self._unread = io.BytesIO(body)

    def get(self, name: str) -> str | None:
        """Return a header; None for `Content-Encoding`, as the body is decompressed."""
        return None if name.lower() == "content-encoding" else self.headers.get(name.lower())

    def read(self, length: int = -1) -> bytes:
        """Return the next `length` bytes of the body; -1 returns the rest."""
        return self._unread.read(length)


@dataclass(eq=False)
class _IdleConnection:
    """An idle connection.

    Attributes:
        connection: the connection.
        process: id of the process that opened it.
        idle_since: start of its idle time, by the monotonic clock.
    """

    connection: HTTPConnection
    process: int = field(default_factory=os.getpid)
    idle_since: float = field(default_factory=time.monotonic)

    def is_usable(self) -> bool:
        """Return whether this process opened the connection and the server neither closed it nor sent anything."""
        return self.process == os.getpid() and not _is_readable(self.connection.sock)


class Connections:
    """Connections to one server. Safe to share between threads.

    A forked child opens its own connections. It closes inherited ones locally; the server sees no close.

    Args:
        host_and_port: host and port, followed by the path that stands before every request's path.
        tls: function that returns the TLS context of a connection; None sends plain text.
    """

    def __init__(self, host_and_port: str, tls: Callable[[], ssl.SSLContext] | None) -> None:
        split = urlsplit(f"//{host_and_port}")
        self._host, self._port, self._path = split.hostname or "", split.port, split.path
        self._tls = tls
        self._idle: deque[_IdleConnection] = deque()
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        notify_on_fork(self)

    def request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> HttpReply:
        """Send one request and return its reply.

        Args:
            method: GET or POST.
            path: path without a leading slash.
            body: body of a POST.
            headers: headers in addition to those that HTTP requires.
            timeout_s: seconds from connecting to the last byte of the reply.

        Raises:
            TimeoutError: the time is over; connections that have been idle since before are closed, too.
            OSError: the connection cannot be opened, or broke.
            HTTPException: the reply is not HTTP, or incomplete.
        """
        started_at = time.monotonic()
        deadline = started_at + timeout_s
        idle = self._pop_idle()
        if idle is not None:
            try:
                return self._exchange(idle, method, path, body, headers, deadline)
            except (ConnectionError, ssl.SSLError):  # the server closed it while it was idle: open a new one
                pass
            except TimeoutError:
                self._close_idle_since(started_at)
                raise
        try:
            return self._exchange(self._open(deadline), method, path, body, headers, deadline)
        except TimeoutError:
            self._close_idle_since(started_at)
            raise

    def close(self) -> None:
        """Close all idle connections, and from now on every connection after its request."""
        self._finalizer()

    def after_fork_in_child(self) -> None:
        """Close the parent's idle connections in a forked child."""
        _close_all(self._idle)

    def _pop_idle(self) -> _IdleConnection | None:
        while self._idle:
            try:
                idle = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if idle.is_usable():
                return idle
            idle.connection.close()
        return None

    def _close_idle_since(self, moment: float) -> None:
        """Close the connections that have been idle since before `moment`: their server may be unreachable."""
        for _ in range(len(self._idle)):
            try:
                idle = self._idle.popleft()
            except IndexError:
                return
            if idle.idle_since < moment:
                idle.connection.close()
            else:
                self._idle.append(idle)

    def _open(self, deadline: float) -> _IdleConnection:
        connect_s = min(_CONNECT_S, _left_s(deadline))
        if self._tls is None:
            connection = HTTPConnection(self._host, self._port, timeout=connect_s)
        else:
            connection = HTTPSConnection(self._host, self._port, timeout=connect_s, context=self._tls())
        try:
            connection.connect()
        except TimeoutError as error:
            connection.close()
            if deadline > time.monotonic():
                raise ConnectionError(f"no connection within {connect_s:.3g} s") from error
            raise
        except BaseException:
            connection.close()
            raise
        return _IdleConnection(connection)

    def _exchange(
        self,
        idle: _IdleConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
    ) -> HttpReply:
        """Send a request on a connection and read the reply; keep the connection if it is reusable, else close it."""
        connection = idle.connection
        is_reusable = False
        try:
            is_complete = _send(connection, method, f"{self._path}/{path}", body, headers, deadline)
            connection.response_class = _timed_response(deadline)
            response = connection.getresponse()
            reply_headers = {name.lower(): value for name, value in response.getheaders()}
            reply = HttpReply(response.status, reply_headers, _decompress(response.read(), reply_headers))
            is_reusable = is_complete and not response.will_close
        finally:
            if is_reusable and len(self._idle) < _MAX_IDLE and self._finalizer.alive:
                self._idle.append(_IdleConnection(connection))
            else:
                connection.close()
        return reply


def _send(
    connection: HTTPConnection, method: str, path: str, body: bytes | None, headers: Mapping[str, str], deadline: float
) -> bool:
    """Send a request and return whether all of it was sent; a server may refuse a large body early."""
    connection.sock.settimeout(_left_s(deadline))
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    try:
        connection.endheaders()
        payload = memoryview(body or b"")
        for start in range(0, len(payload), _CHUNK_BYTES):
            # Readable TLS data may be a session ticket rather than a reply.
            if start and not isinstance(connection.sock, ssl.SSLSocket) and _is_readable(connection.sock):
                return False
            connection.sock.settimeout(_left_s(deadline))
            connection.sock.sendall(payload[start : start + _CHUNK_BYTES])
    except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):  # the server may have replied before
        return False
    return True


def _timed_response(deadline: float) -> type[HTTPResponse]:
    """Return a response class whose reads end at `deadline`, however slowly bytes arrive."""

    class Response(HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: object, **named: object) -> None:
            super().__init__(sock, *arguments, **named)  # type: ignore[arg-type]
            self.fp = io.BufferedReader(_TimedReader(sock, deadline, self.fp), 65_536)

    return Response


class _TimedReader(io.RawIOBase):
    """Reads of a socket until a deadline by the monotonic clock."""

    def __init__(self, sock: socket.socket, deadline: float, file: io.BufferedIOBase) -> None:
        self._sock, self._deadline, self._file = sock, deadline, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(_left_s(self._deadline))
        return self._file.readinto1(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _left_s(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _is_readable(sock: socket.socket) -> bool:
    """Return whether a read would return at once, with data or with the end of the stream."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _decompress(body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the decompressed body.

    Raises:
        HTTPException: the body is corrupt, or its encoding unknown.
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


def _close_all(idle: deque[_IdleConnection]) -> None:
    while idle:
        try:
            idle.pop().connection.close()
        except IndexError:
            return
