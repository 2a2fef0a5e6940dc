# SPDX-License-Identifier: Apache-2.0
"""A server from start to stop: checked, started, waited for, and never left behind."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from flagtriton_tools.embedded import check_numpy, find_tritonserver
from flagtriton_tools.errors import ToolError
from flagtriton_tools.server_process import RunningServer, start_server
from flagtriton_tools.serving import ServeOptions, check_options

__all__ = ["ServerStoppedError", "running_server"]

_POLL_S = 0.1

Report = Callable[[str], None]


class ServerStoppedError(ToolError):
    """The server ended by itself before it was ready."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def running_server(options: ServeOptions, report: Report = lambda _: None) -> Iterator[RunningServer]:
    """Yield a server whose models are all ready; stop it on leaving, whatever the reason.

    It ends with the thread that started it, too.

    Args:
        options: what to serve, where.
        report: told what is happening, a line at a time.

    Raises:
        ToolError: the repository, a name or a port is wrong, or there is no server to run; nothing was started.
        ServerStoppedError: the server ended before it was ready; the message ends with the log's last lines.
    """
    check_options(options)
    with ExitStack() as stack:
        work_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flagtriton-")))
        binary = find_tritonserver(options.tritonserver, work_folder)
        report(f"tritonserver: {binary.binary} ({binary.origin})")
        server = start_server(binary, options, work_folder)
        stack.callback(server.stop)
        server.version = _wait_until_ready(server, report)
        check_numpy(importlib.metadata.version("numpy"), server.version)
        yield server


def _wait_until_ready(server: RunningServer, report: Report) -> str:
    """Return the server's version once every model is ready."""
    options = server.options
    deadline = time.monotonic() + options.ready_timeout_s
    reported: set[str] = set()
    while time.monotonic() < deadline:
        if server.exit_code is not None:
            raise ServerStoppedError(
                f"tritonserver ended with code {server.exit_code} before it was ready{server.last_words()}",
                server.exit_code or 1,
            )
        for name in sorted(_ready_models(options) - reported):
            reported.add(name)
            report(f"ready: {name}")
        if _get(f"{options.http_url}/v2/health/ready") is not None:
            return str(_get_json(f"{options.http_url}/v2", {}).get("version", "unknown"))
        time.sleep(_POLL_S)
    raise ToolError(f"not ready within {options.ready_timeout_s:.0f} s{server.last_words()}")


def _ready_models(options: ServeOptions) -> set[str]:
    index = _get_json(f"{options.http_url}/v2/repository/index", [], data=b"{}")
    return {model["name"] for model in index if model.get("state") == "READY"}


def _get_json(url: str, default: Any, data: bytes | None = None) -> Any:  # noqa: ANN401 - JSON
    body = _get(url, data)
    try:
        return default if body is None else json.loads(body)
    except ValueError:
        return default


def _get(url: str, data: bytes | None = None) -> bytes | None:
    """Return what the server answers, or None where it does not answer, or not with success."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no way to loopback
    try:
        with opener.open(url, data, timeout=5) as reply:
            body: bytes = reply.read()
            return body
    except (OSError, HTTPException):
        return None
