# SPDX-License-Identifier: Apache-2.0
"""What the tests of all search engines share: a made-up BGE-M3 output, and a server that records what it is sent."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np

__all__ = ["RecordingServer", "Sent", "recording_server", "two_texts"]


def two_texts() -> dict[str, Any]:
    """Return an output for two texts, `D` of 2: one text of two ColBERT vectors, one of a single vector and weight."""
    return {
        "dense_vecs": np.array([[1, 0], [0.5, 0.5]], dtype=np.float32),
        "lexical_weights": [{"9": np.float32(0.25), "250001": np.float32(0.5)}, {"7": np.float32(1)}],
        "colbert_vecs": [np.array([[1, 0], [0, 1]], dtype=np.float32), np.array([[0, 1]], dtype=np.float32)],
    }


@dataclass(frozen=True)
class Sent:
    """One request: its method, its path without the query, and its JSON body."""

    method: str
    path: str
    body: Any


@dataclass
class RecordingServer:
    """A server that answers every request with the same JSON, and what it was sent."""

    port: int = 0
    sent: list[Sent] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def last_body(self) -> Any:
        return self.sent[-1].body


@contextmanager
def recording_server(answer: dict[str, Any]) -> Iterator[RecordingServer]:
    """Serve on a free port until the block ends."""
    record = RecordingServer()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(record, json.dumps(answer).encode())) as server:
        record.port = server.server_address[1]
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield record
        finally:
            server.shutdown()
            thread.join()


def _handler(record: RecordingServer, answer: bytes) -> type[BaseHTTPRequestHandler]:
    """Return a class that records requests in `record`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

        def answer(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("content-encoding") == "gzip":
                data = gzip.decompress(data)
            record.sent.append(Sent(self.command, self.path.partition("?")[0], json.loads(data or "null")))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.send_header("x-elastic-product", "Elasticsearch")
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - http.server's names

    return Handler
