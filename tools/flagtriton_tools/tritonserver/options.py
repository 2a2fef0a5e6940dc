# SPDX-License-Identifier: Apache-2.0
"""Options for serving a repository, and checks of them before a server starts."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.store import entries, model_names

__all__ = ["ServeOptions", "check_options", "free_ports", "is_loopback"]

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
    "--model-control-mode": "--load",
    "--exit-on-error": "--exit-on-error",
    "--grpc-use-ssl": "--tls-certificate",
    "--grpc-use-ssl-mutual": "--tls-client-ca",
    "--grpc-server-cert": "--tls-certificate",
    "--grpc-server-key": "--tls-key",
    "--grpc-root-cert": "--tls-client-ca",
}
"""Flags of tritonserver that `serve` sets, to the option of `serve` that controls each."""


@dataclass(frozen=True)
class ServeOptions:
    """How a repository is served.

    Attributes:
        load: deployments to load; empty loads all.
        host: address on which gRPC, metrics and health listen. HTTP listens there, too, unless gRPC has TLS. Triton's
            HTTP has no TLS, so it then stays on loopback.
        plain_http_host: address on which HTTP listens, independently of `host`; None derives it from `host`.
        health_port: port of the launcher's `/healthz`; None has none.
        log_file: file for the output of the server; None leaves the output on this terminal.
        ready_timeout_s: time until all models must be ready, seconds.
        exit_on_error: stop the server if a model does not load; False serves the other models.
        tls_certificate: PEM file with the certificate chain for gRPC; None means plain text.
        tls_key: PEM file with the private key of that certificate.
        tls_client_ca: PEM file with the authority that must have signed client certificates; None requires none.
        secret_file: file with the secret for admin operations; None makes a secret.
        open_admin: let admin operations work without a secret.
        request_log: file to which the steps append one line of JSON for each request; None keeps no log.
        extra: further flags for tritonserver, passed on unchanged.
    """

    repository: Path
    load: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    plain_http_host: str | None = None
    health_port: int | None = None
    tritonserver: str | None = None
    log_file: Path | None = None
    ready_timeout_s: float = 600.0
    exit_on_error: bool = True
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    secret_file: Path | None = None
    open_admin: bool = False
    request_log: Path | None = None
    extra: tuple[str, ...] = ()

    @property
    def http_host(self) -> str:
        """Address on which HTTP listens."""
        if self.plain_http_host is not None:
            return self.plain_http_host
        return self.host if self.tls_certificate is None else "127.0.0.1"

    @property
    def http_url(self) -> str:
        """Address of the server for HTTP, seen from this machine."""
        return f"http://{_reachable(self.http_host)}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """Address of the server for gRPC, seen from this machine."""
        scheme = "grpc" if self.tls_certificate is None else "grpcs"
        return f"{scheme}://{_reachable(self.host)}:{self.grpc_port}"

    def url_of(self, port: int) -> str:
        """Return the address of the metrics or health port, seen from this machine."""
        return f"http://{_reachable(self.host)}:{port}"

    @property
    def open_to_network(self) -> dict[str, str]:
        """Addresses that other machines can reach, by the flag that sets each."""
        hosts = {"--host": self.host} | ({"--http-host": self.http_host} if self.http_host != self.host else {})
        return {flag: host for flag, host in hosts.items() if not is_loopback(host)}


def check_options(options: ServeOptions) -> None:
    """Raise if serving cannot work.

    Raises:
        ToolError: there is no such repository or model, a port is taken, or an extra flag would contradict an option.
    """
    _check_models(options)
    _check_tls(options)
    _check_ports(options)
    _check_request_log(options)
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


def _check_request_log(options: ServeOptions) -> None:
    log = options.request_log
    if log is None:
        return
    try:
        os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        raise ToolError(f"--request-log {log}: {error.strerror}; it must be a file that can be written") from error


def _check_ports(options: ServeOptions) -> None:
    ports = {
        "--http-port": options.http_port,
        "--grpc-port": options.grpc_port,
        "--metrics-port": options.metrics_port,
    }
    if options.health_port is not None:
        ports["--health-port"] = options.health_port
    if len(set(ports.values())) < len(ports):
        raise ToolError(f"two ports are the same: {', '.join(f'{flag} {port}' for flag, port in ports.items())}")
    for flag, port in ports.items():
        host = options.http_host if flag == "--http-port" else options.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except (OSError, OverflowError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise ToolError(
                    f"{flag} {port} on {host}: {reason}; stop what uses it, or choose another port"
                ) from error


def _check_tls(options: ServeOptions) -> None:
    files = {
        "--tls-certificate": options.tls_certificate,
        "--tls-key": options.tls_key,
        "--tls-client-ca": options.tls_client_ca,
    }
    given = {flag: file for flag, file in files.items() if file is not None}
    for flag in ("--tls-certificate", "--tls-key"):
        if given and flag not in given:
            raise ToolError(f"{next(iter(given))} came without {flag}; TLS needs a certificate and its key")
    for flag, file in given.items():
        if not file.is_file():
            raise ToolError(f"{flag} is {file}, which is no file")


def _reachable(host: str) -> str:
    """Return the host, as URLs write it, under which this machine reaches a listener on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{reachable}]" if ":" in reachable else reachable


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a listener on this host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
