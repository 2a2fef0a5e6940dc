# SPDX-License-Identifier: Apache-2.0
"""Flags of tritonserver's command line. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from flagtriton_tools.tritonserver.admin import SECRET_HEADER
from flagtriton_tools.tritonserver.options import ServeOptions

__all__ = ["RESTRICTED", "server_flags"]

RESTRICTED = ("model-repository", "logging", "trace", "shared-memory")
"""Triton's operations that change the server or read its memory. They need the secret."""

_EXIT_TIMEOUT_S = 10
"""Time that the server waits at its end for requests and idle HTTP connections, in seconds. It then drops them."""


def server_flags(
    options: ServeOptions,
    models: Sequence[str],
    secret: str | None,
    shared_memory_prefix: str,
    *,
    auto_complete: bool = False,
) -> list[str]:
    """Return tritonserver's flags.

    Args:
        options: repository and addresses.
        models: models to load at the start. Steps are named, too, so that each can be reloaded alone.
        secret: secret for the restricted operations; None leaves them open.
        shared_memory_prefix: prefix of the names of the server's files in `/dev/shm`.
        auto_complete: let Triton ask each model for missing parts of its configuration. Triton then starts every Python
            model twice. The configurations of flagtriton are complete.
    """
    return [
        f"--model-repository={options.repository.absolute()}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        f"--exit-on-error={str(options.exit_on_error).lower()}",
        f"--http-address={options.http_host}",
        f"--http-port={options.http_port}",
        f"--grpc-address={options.host}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-address={options.host}",
        f"--metrics-port={options.metrics_port}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix}",
        *([] if auto_complete else ["--disable-auto-complete-config"]),
        f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
        *_tls_flags(options),
        *_secret_flags(secret),
        *options.extra,
    ]


def _tls_flags(options: ServeOptions) -> list[str]:
    if options.tls_certificate is None or options.tls_key is None:
        return []
    flags = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={options.tls_certificate.resolve()}",
        f"--grpc-server-key={options.tls_key.resolve()}",
    ]
    if options.tls_client_ca is not None:
        flags += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={options.tls_client_ca.resolve()}"]
    return flags


def _secret_flags(secret: str | None) -> list[str]:
    if secret is None:
        return []
    restricted = f"{','.join(RESTRICTED)}:{SECRET_HEADER}={secret}"
    return [f"--http-restricted-api={restricted}", f"--grpc-restricted-protocol={restricted}"]
