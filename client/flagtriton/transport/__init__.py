# SPDX-License-Identifier: Apache-2.0
"""The two wires to Triton, behind one small interface; no other module of the SDK imports tritonclient."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from flagtriton.transport.base import TLS, Deadline, InferenceReply, ModelConfig, ServerAddress, Transport

__all__ = [
    "TLS",
    "Deadline",
    "InferenceReply",
    "ModelConfig",
    "ServerAddress",
    "Transport",
    "connect",
]

_DEFAULT_URL = "grpc://localhost:8001"


def connect(
    url: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    tls: TLS | None = None,
    timeout_s: float = 60.0,
) -> Transport:
    """Return a transport to the server at `url`; nothing is sent yet.

    Args:
        url: `grpc://host:port`, `grpcs://…`, `http://…` or `https://…`; None takes the environment variable
            `FLAGTRITON_URL`, else `grpc://localhost:8001`.
        headers: sent with every request, e.g. `{"authorization": "Bearer …"}`.
        tls: certificates, where the system's own do not do.
        timeout_s: seconds that one try of one request may take.

    Raises:
        ValueError: `url` has another form.
    """
    address = ServerAddress.parse(url or os.environ.get("FLAGTRITON_URL") or _DEFAULT_URL)
    certificates = tls if tls is not None else TLS() if address.secure else None
    address = replace(address, secure=certificates is not None)
    if address.wire == "grpc":
        from flagtriton.transport.grpc import GrpcTransport

        return GrpcTransport(address, headers or {}, certificates, timeout_s)
    from flagtriton.transport.http import HttpTransport

    return HttpTransport(address, headers or {}, certificates, timeout_s)
