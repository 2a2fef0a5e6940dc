# SPDX-License-Identifier: Apache-2.0
"""A program of a few lines in tritonserver's place, and options that serve with it."""

from __future__ import annotations

import sys
from pathlib import Path

from flagtriton_tools.tritonserver.options import ServeOptions, free_ports
from tests.support.folders import executable

__all__ = ["SERVER", "options_for"]

SERVER = f"""#!{sys.executable}
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

flags = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
restricted, _, secret = flags.get("--http-restricted-api", "").partition(":flagtriton-secret=")
asked = [argument.partition("=")[2] for argument in sys.argv[1:] if argument.startswith("--load-model=")]
broken = flags.get("--broken", "").split(",")
states = {{name: "UNAVAILABLE" if name in broken else "READY" for name in asked}}
polls = int(flags.get("--polls", 0))

class Handler(BaseHTTPRequestHandler):
    def answer(self):
        global polls
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        admin = self.path.startswith("/v2/repository/")
        if admin and secret and self.headers.get("flagtriton-secret") != secret:
            return self.send(403, {{"error": "This API is restricted, expecting header 'flagtriton-secret'"}})
        if self.path == "/v2":
            return self.send(200, {{"version": "9.9"}})
        if self.path == "/v2/health/live":
            return self.send(200, {{}})
        if self.path == "/v2/repository/index":
            polls -= 1
            told = {{name: "LOADING" if polls >= 0 else state for name, state in states.items()}}
            reasons = {{"UNAVAILABLE": "OSError: no such checkpoint\\n\\nAt:\\n  model.py(1)"}}
            models = [{{"name": n, "state": s, "reason": reasons.get(s, "")}} for n, s in told.items()]
            for model in models:
                if model["name"] in flags.get("--without-steps", "").split(","):
                    model["reason"] = "a step of it did not load"
            return self.send(200, [*models, {{"name": "late", "state": "LOADING"}}])
        words = self.path.split("/")
        if admin and words[-1] in ("load", "unload"):
            states[words[-2]] = {{"load": "READY", "unload": "UNAVAILABLE"}}[words[-1]]
            return self.send(200, {{}})
        self.send(404, {{"error": "no such path"}})

    def send(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

if "--deaf=1" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
print(json.dumps(sys.argv[1:]), flush=True)
HTTPServer(("127.0.0.1", int(flags["--http-port"])), Handler).serve_forever()
"""
"""Ready at once, or after `--polls=N` looks; some models `--broken=a,b`. Ends with code 0 at SIGTERM unless deaf."""


def options_for(tmp_path: Path, source: str, name: str = "tritonserver") -> ServeOptions:
    """Return options that serve one model named `tiny` with a program of that source."""
    repository = tmp_path / "repo"
    (repository / "tiny").mkdir(parents=True)
    (repository / "tiny" / "config.pbtxt").touch()
    http_port, grpc_port, metrics_port = free_ports(3)
    return ServeOptions(
        repository,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        tritonserver=str(executable(tmp_path / name, source)),
        log_file=tmp_path / "logs" / "server.log",
        ready_timeout_s=30,
    )
