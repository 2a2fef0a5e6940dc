# SPDX-License-Identifier: Apache-2.0
"""How a repository is to be served, and whether that can work, before anything is started."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository import entries, model_names

__all__ = ["ServeOptions", "check_options", "free_ports"]

_OWN_FLAGS = {
    "--model-repository": "--repository",
    "--model-store": "--repository",
    "--load-model": "--load",
    "--http-address": "--host",
    "--grpc-address": "--host",
    "--metrics-address": "--host",
    "--http-port": "--http-port",
    "--grpc-port": "--grpc-port",
    "--metrics-port": "--metrics-port",
}
"""tritonserver's flags that `serve` sets itself, and which of its options does."""


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


def check_options(options: ServeOptions) -> None:
    """Raise where serving cannot work.

    Raises:
        ToolError: no such repository or model, a port is taken, or a flag would contradict an option.
    """
    _check_models(options)
    _check_ports(options)
    for flag in options.extra:
        name = flag.partition("=")[0]
        if name in _OWN_FLAGS:
            raise ToolError(f"{name} stands behind --, but `flagtriton serve` sets it: use its own {_OWN_FLAGS[name]}")


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
            public = [entry.name for entry in entries(options.repository)]
            raise ToolError(f"--load is {name}, but {options.repository} has {', '.join(public or names)}")


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


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
