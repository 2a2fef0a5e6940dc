# SPDX-License-Identifier: Apache-2.0
"""Health of the deployments for probes, over HTTP and as a file.

Triton calls a model with a dead process ready.
"""

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
    """State of one deployment, `ready` or another with its reason, and the number of its recoveries."""

    state: str
    reason: str = ""
    recoveries: int = 0
    since: float = field(default_factory=time.time)
    lost_at: float | None = None  # monotonic time at which it stopped being ready; None while ready or if never ready


class Health:
    """Health of the server and of each deployment. Safe to share between threads.

    Args:
        file: file that exists while all of them answer, rewritten at each `beat`; None has none.

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
        """Set the state of the server: `starting`, `ready`, `draining` or `restarting`."""
        with self._lock:
            self._server, self._restarts = state, restarts
        self._write()

    def deployment_is(self, name: str, state: str, reason: str = "", *, recovered: bool = False) -> bool:
        """Set the state of a deployment; return whether it differs from the last one."""
        with self._lock:
            former = self._standings.get(name)
            recoveries = (former.recoveries if former else 0) + recovered
            if former is not None and (former.state, former.reason, former.recoveries) == (state, reason, recoveries):
                return False
            self._standings[name] = _Standing(state, reason, recoveries, lost_at=_lost_at(former, state))
        self._write()
        return True

    def forget(self, name: str) -> None:
        """Remove a deployment that is no longer meant to be served."""
        with self._lock:
            self._standings.pop(name, None)
        self._write()

    def is_ready(self, name: str | None = None) -> bool:
        """Return whether the server and all deployments answer, or the server and the named deployment."""
        with self._lock:
            if name is not None:
                standings = [self._standings[name]] if name in self._standings else []
            else:
                standings = list(self._standings.values())
            return self._server == READY and bool(standings) and all(s.state == READY for s in standings)

    def lost_for_s(self) -> float:
        """Return the longest time, in seconds, since which a deployment that once answered has not; 0 if all do."""
        with self._lock:
            lost = [standing.lost_at for standing in self._standings.values() if standing.lost_at is not None]
        return max((time.monotonic() - at for at in lost), default=0.0)

    def beat(self) -> None:
        """Rewrite the file, so that its modification time shows that the launcher is alive."""
        self._write()

    def to_json(self) -> dict[str, Any]:
        """Return the state of the server and of all deployments as plain data."""
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
    """Serve `/healthz`, `/healthz/DEPLOYMENT` and `/livez` while the block runs, with status 200 or 503.

    `/livez?within=SECONDS` returns 503 if a deployment that once answered has not for longer than that. `/metrics` has
    the same states for Prometheus.

    Raises:
        ToolError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "flagtriton", ""
        timeout = 10  # seconds, for clients that send nothing

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            status, content_type, body = _answer(health, unquote(path), parse_qs(query))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing, as probes come every few seconds."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = _family(host)

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore clients that disconnect."""

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
    """Return the status, content type and body of the reply for a path."""
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


def _family(host: str) -> Any:  # noqa: ANN401 - an enumeration of the module socket
    import socket

    return socket.AF_INET6 if ":" in host else socket.AF_INET
