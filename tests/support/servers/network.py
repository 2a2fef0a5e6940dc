# SPDX-License-Identifier: Apache-2.0
"""Networks that go silent, and gateways that answer before a request is over."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

__all__ = ["SilentProxy", "refusing_early", "silent_proxy", "speaking"]


@dataclass
class SilentProxy:
    """Passes bytes on until it is silenced; from then on it swallows those of the connections that there were.

    Attributes:
        port: where it listens.
        accepted: connections so far.
    """

    port: int
    accepted: int = 0
    _silenced: list[threading.Event] = field(default_factory=list)

    def silence(self) -> None:
        for event in self._silenced:
            event.set()


@contextmanager
def silent_proxy(upstream_port: int) -> Iterator[SilentProxy]:
    """Yield a proxy before a server of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = SilentProxy(listener.getsockname()[1])
        sockets: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def run(target: Callable[..., object], *arguments: object) -> None:
            threads.append(threading.Thread(target=target, args=arguments, daemon=True))
            threads[-1].start()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    sockets.append(client)
                    proxy.accepted += 1
                    silenced = threading.Event()
                    proxy._silenced.append(silenced)
                    server = socket.create_connection(("127.0.0.1", upstream_port))
                    sockets.append(server)
                    for pair in ((client, server), (server, client)):
                        run(_pass_on, *pair, silenced)

        run(accept)
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            threads[0].join()
            for end in sockets:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            for end in sockets:
                end.close()


def _pass_on(source: socket.socket, target: socket.socket, silenced: threading.Event) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            if not silenced.is_set():
                target.sendall(data)
        if not silenced.is_set():
            target.shutdown(socket.SHUT_WR)


@contextmanager
def speaking(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Yield the port of a server that talks so on each connection, which is closed afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        talk(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def refusing_early(status: str, page: bytes) -> Callable[[socket.socket], None]:
    """Return a talk that answers as soon as the first bytes come, and resets the connection with the rest unread."""

    def talk(connection: socket.socket) -> None:
        connection.recv(4_096)
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(page)}\r\n\r\n".encode()
        connection.sendall(head + page)

    return talk
