# SPDX-License-Identifier: Apache-2.0
"""A `tritonserver` process from start to stop: checked, started, waited for, and never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO

from flagtriton_tools.embedded import Tritonserver, find_tritonserver
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository import model_names

__all__ = ["RunningServer", "ServeOptions", "ServerStoppedError", "free_ports", "running_server"]

_POLL_S = 0.1
_STOP_TIMEOUT_S = 40.0
"""tritonserver's own grace period is 30 s."""

_PR_SET_PDEATHSIG = 1

_ERROR_LINE = re.compile(r"E\d{4} ")
"""How Triton's log marks errors: the level and the date, month and day."""

_ERROR_LINES = 4
_TAIL_LINES = 6

Report = Callable[[str], None]


class ServerStoppedError(ToolError):
    """The server ended by itself before it was ready."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class ServeOptions:
    """How a repository is served.

    Attributes:
        load: only these deployments; empty loads all.
        log_file: what the server prints; None leaves it on this terminal.
        ready_timeout_s: seconds until all models must be ready.
        extra: further tritonserver flags, as they are.
    """

    repository: Path
    load: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    tritonserver: str | None = None
    log_file: Path | None = None
    ready_timeout_s: float = 600.0
    extra: tuple[str, ...] = ()

    @property
    def reachable_host(self) -> str:
        """The host under which this machine reaches the server."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def http_url(self) -> str:
        """The server's HTTP address, seen from this machine."""
        return f"http://{_bracketed(self.reachable_host)}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """The server's gRPC address, seen from this machine."""
        return f"grpc://{_bracketed(self.reachable_host)}:{self.grpc_port}"


@dataclass
class RunningServer:
    """A server that has answered; `process` is its own."""

    options: ServeOptions
    process: subprocess.Popen[bytes]
    version: str = "unknown"

    def wait(self) -> int:
        """Return the server's exit code, once it ends; one ended by signal n gives 128 + n."""
        return _exit_code(self.process.wait())

    def stop(self) -> int:
        """Ask the server to end, kill it where it does not, and return its exit code."""
        try:
            if self.process.poll() is None:
                self.process.terminate()
            self.process.wait(_STOP_TIMEOUT_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.kill()
        return self.wait()

    def kill(self) -> None:
        """End the server and its stubs at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


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
    _check_models(options)
    _check_ports(options)
    with ExitStack() as stack:
        work_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flagtriton-")))
        binary = find_tritonserver(options.tritonserver, work_folder)
        report(f"tritonserver: {binary.binary} ({binary.origin})")
        server = RunningServer(options, _start(binary, options, work_folder))
        stack.callback(server.stop)
        server.version = _wait_until_ready(server, report)
        yield server


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _check_models(options: ServeOptions) -> None:
    if not options.repository.is_dir():
        raise ToolError(f"{options.repository} is no folder; `flagtriton add CHECKPOINT --repository …` makes one")
    names = model_names(options.repository)
    if not names:
        raise ToolError(f"{options.repository} holds no model; `flagtriton add CHECKPOINT --repository …` adds one")
    for name in options.load:
        if name not in names:
            raise ToolError(f"--load is {name}, but {options.repository} has {', '.join(names)}")


def _check_ports(options: ServeOptions) -> None:
    ports = {
        "--http-port": options.http_port,
        "--grpc-port": options.grpc_port,
        "--metrics-port": options.metrics_port,
    }
    if len(set(ports.values())) < len(ports):
        raise ToolError(f"two ports are the same: {', '.join(f'{flag} {port}' for flag, port in ports.items())}")
    for flag, port in ports.items():
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, port))
            except (OSError, OverflowError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise ToolError(
                    f"{flag} {port} on {options.host}: {reason}; stop what uses it, or choose another port"
                ) from error


def _start(binary: Tritonserver, options: ServeOptions, work_folder: Path) -> subprocess.Popen[bytes]:
    control = ("--model-control-mode=explicit", *(f"--load-model={name}" for name in options.load))
    command = [
        str(binary.binary),
        *binary.arguments,
        f"--model-repository={options.repository.resolve()}",
        f"--http-address={options.host}",
        f"--http-port={options.http_port}",
        f"--grpc-address={options.host}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-address={options.host}",
        f"--metrics-port={options.metrics_port}",
        f"--backend-config=python,shm-region-prefix-name=flagtriton_{os.getpid()}_{options.http_port}_",
        *(control if options.load else ()),
        *options.extra,
    ]
    try:
        with _log(options.log_file) as log:
            return subprocess.Popen(
                command,
                cwd=work_folder,  # first on the stubs' sys.path, so it must hold nothing that could be imported
                env={**os.environ, **binary.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C reaches this process alone, which then stops the server in order
                preexec_fn=_die_with_parent,
            )
    except OSError as error:
        raise ToolError(f"cannot start {binary.binary}: {error}") from error


@contextmanager
def _log(file: Path | None) -> Iterator[BinaryIO | None]:
    if file is None:
        yield None
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        log = file.open("wb")
    except OSError as error:
        raise ToolError(f"cannot write the log {file}: {error}; choose another with --log-file") from error
    with log:
        yield log


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_ready(server: RunningServer, report: Report) -> str:
    """Return the server's version once every model is ready."""
    options = server.options
    deadline = time.monotonic() + options.ready_timeout_s
    reported: set[str] = set()
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            exit_code = _exit_code(server.process.returncode)
            raise ServerStoppedError(
                f"tritonserver ended with code {exit_code} before it was ready{_last_lines(options.log_file)}",
                exit_code or 1,
            )
        for name in sorted(_ready_models(options) - reported):
            reported.add(name)
            report(f"ready: {name}")
        if _get(f"{options.http_url}/v2/health/ready") is not None:
            return str(_get_json(f"{options.http_url}/v2", {}).get("version", "unknown"))
        time.sleep(_POLL_S)
    raise ToolError(f"not ready within {options.ready_timeout_s:.0f} s{_last_lines(options.log_file)}")


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


def _last_lines(log_file: Path | None) -> str:
    """Return a pointer to the log, its last errors and its last lines, without the tables that Triton draws."""
    if log_file is None:
        return "; its log is above"
    lines = [line for line in log_file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip("+-| ")]
    prose = [line for line in lines if not line.startswith(("|", "+"))]
    errors = [line for line in prose[:-_TAIL_LINES] if _ERROR_LINE.match(line)][-_ERROR_LINES:]
    shown = [line.replace("\\n", "\n    ") for line in (*errors, *prose[-_TAIL_LINES:])]
    return "; see {}, which ends:\n{}".format(log_file, "\n".join(f"  {line}" for line in shown))


def _exit_code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
