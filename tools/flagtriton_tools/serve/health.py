# SPDX-License-Identifier: Apache-2.0
"""What is true of a server, for probes, over HTTP and as a file: Triton calls a model ready whose process is dead."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from flagtriton_tools.errors import ToolError
from flagtriton_tools.serve.health_metrics import CONTENT_TYPE, exposition

__all__ = ["READY", "Health", "served_health"]

READY = "ready"


@dataclass
class _Standing:
    """How one deployment stands: `ready`, or what keeps it from that, and how often it was brought back."""

    state: str
    reason: str = ""
    recoveries: int = 0
    since: float = field(default_factory=time.time)
    lost_at: float | None = None  # when it last answered, by the monotonic clock, if it once did and does not


class Health:
    """How the server and each of its deployments stand. Safe to share between threads.

    Args:
        file: exists while all of them answer, written anew at each `beat`; None has none.

    Raises:
        ToolError: the file cannot be written.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._server = "starting"
        self._standings: dict[str, _Standing] = {}
        self._restarts = 0
        if file is not None and not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
            raise ToolError(
                f"--health-file is {file}, in a folder that is not there, or that nothing can be written to"
            )
        self._write()

    def server_is(self, state: str, *, restarts: int = 0) -> None:
        """Say how the server stands: `starting`, `ready`, `draining` or `restarting`."""
        with self._lock:
            self._server, self._restarts = state, restarts
        self._write()

    def deployment_is(self, name: str, state: str, reason: str = "", *, recovered: bool = False) -> bool:
        """Say how a deployment stands; return whether that is new."""
        with self._lock:
            former = self._standings.get(name)
            recoveries = (former.recoveries if former else 0) + recovered
            if former is not None and (former.state, former.reason, former.recoveries) == (state, reason, recoveries):
                return False
            self._standings[name] = _Standing(state, reason, recoveries, lost_at=_lost_at(former, state))
        self._write()
        return True

    def forget(self, name: str) -> None:
        """Say that a deployment is no longer served, and is not meant to be."""
        with self._lock:
            self._standings.pop(name, None)
        self._write()

    def is_ready(self, name: str | None = None) -> bool:
        """Return whether the server answers, and all deployments do, or the one of that name."""
        with self._lock:
            if name is not None:
                standings = [self._standings[name]] if name in self._standings else []
            else:
                standings = list(self._standings.values())
            return self._server == READY and bool(standings) and all(s.state == READY for s in standings)

    def lost_for_s(self) -> float:
        """Return for how long a deployment that once answered has not, the longest of all; 0 if all do."""
        with self._lock:
            lost = [standing.lost_at for standing in self._standings.values() if standing.lost_at is not None]
        return max((time.monotonic() - at for at in lost), default=0.0)

    def beat(self) -> None:
        """Show that the launcher is alive: make the file's time the present one."""
        self._write()

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        ready = self.is_ready()
        with self._lock:
            return {
                "ready": ready,
                "server": self._server,
                "restarts": self._restarts,
                "deployments": {name: _shown(standing) for name, standing in sorted(self._standings.items())},
            }

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._file is None:
            return
        with self._writing:
            if not self.is_ready():
                self._file.unlink(missing_ok=True)
                return
            partial = self._file.with_name(f".{self._file.name}.partial")
            partial.write_text(json.dumps(self.to_json()), encoding="utf-8")
            partial.replace(self._file)


@contextmanager
def served_health(health: Health, host: str, port: int) -> Iterator[None]:
    """Answer `/healthz`, `/healthz/DEPLOYMENT` and `/livez` while the block runs: 200 if it is so, else 503.

    `/livez?within=SECONDS` is 503 where a deployment that once answered has not for longer; `/metrics` says how things
    stand to Prometheus.

    Raises:
        ToolError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "flagtriton", ""
        timeout = 10  # of a client that sends nothing

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            status, content_type, body = _answer(health, unquote(path), parse_qs(query))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing: a probe comes every few seconds."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = _family(host)

        def handle_error(self, request: object, client_address: object) -> None:
            """Pass over clients that go away."""

    try:
        server = Server((host, port), Handler)
    except OSError as error:
        raise ToolError(f"--health-port {port} on {host}: {error.strerror}; choose another") from error
    thread = threading.Thread(target=server.serve_forever, name="healthz", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _lost_at(former: _Standing | None, state: str) -> float | None:
    if state == READY or former is None:
        return None
    return time.monotonic() if former.state == READY else former.lost_at


def _shown(standing: _Standing) -> dict[str, Any]:
    shown = asdict(standing)
    del shown["lost_at"]
    return shown


def _answer(health: Health, path: str, query: Mapping[str, list[str]]) -> tuple[HTTPStatus, str, bytes]:
    """Return the status, the content type and the body that a path is answered with."""
    kind, _, name = path.strip("/").partition("/")
    if kind == "metrics":
        return HTTPStatus.OK, CONTENT_TYPE, exposition(health.to_json())
    status, said = _alive(health, query) if kind == "livez" else _standing(health, kind, name)
    return status, "application/json", json.dumps(said).encode() + b"\n"


def _alive(health: Health, query: Mapping[str, list[str]]) -> tuple[HTTPStatus, dict[str, Any]]:
    try:
        within_s = float(query.get("within", ["inf"])[0])
    except ValueError:
        return HTTPStatus.BAD_REQUEST, {"error": "within is no number of seconds"}
    alive = health.lost_for_s() <= within_s
    return HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE, {"alive": alive}


def _standing(health: Health, kind: str, name: str) -> tuple[HTTPStatus, dict[str, Any]]:
    if kind != "healthz":
        return HTTPStatus.NOT_FOUND, {"error": "ask for /healthz, /healthz/DEPLOYMENT, /livez or /metrics"}
    said = health.to_json()
    if name and name not in said["deployments"]:
        return HTTPStatus.NOT_FOUND, {"error": f"{name} is not served here"}
    ready = health.is_ready(name or None)
    body = {"ready": ready, **said["deployments"][name]} if name else said
    return HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, body


def _family(host: str) -> Any:  # noqa: ANN401 - an enum of socket's
    import socket

    return socket.AF_INET6 if ":" in host else socket.AF_INET
