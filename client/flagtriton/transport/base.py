# SPDX-License-Identifier: Apache-2.0
"""What a wire can do, and where a server is. Imports no wire."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import SplitResult, urlsplit

from numpy.typing import NDArray

from flagtriton.errors import RequestTimeoutError
from flagtriton.protocol.options.checks import OptionValue

__all__ = [
    "TLS",
    "Deadline",
    "InferenceReply",
    "ModelConfig",
    "ServerAddress",
    "Transport",
    "queue_time_us",
]

InferenceReply: TypeAlias = dict[str, NDArray[Any]]
"""Output tensors by name."""

_SCHEMES = {
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "http": ("http", False),
    "https": ("http", True),
}
_LONGEST_S = 1e6
"""What a queue is told of longer times, seconds; infinity is no number of µs."""

_DEFAULT_PORTS = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 443}


@dataclass(frozen=True)
class TLS:
    """PEM files for an encrypted connection; what is None is the system's own, or not sent."""

    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The part of a Triton model configuration that clients need."""

    name: str
    max_batch_size: int
    parameters: Mapping[str, str]

    @classmethod
    def from_json(cls, name: str, config: Mapping[str, Any]) -> ModelConfig:
        """Return it from the JSON form that both wires give; `config` is its outermost object."""
        strings = {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}
        return cls(name, int(config.get("max_batch_size", 0)), strings)


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is and how it is spoken to.

    Attributes:
        wire: `grpc` or `http`.
        host_and_port: over HTTP, with the path below which Triton is.
        secure: it is spoken to in TLS.
        name: that its certificate bears, where the host is an address that was looked up; None is the host.
    """

    wire: str
    host_and_port: str
    secure: bool
    name: str | None = None

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """Return the address that `url` names; without a port, Triton's own.

        A path is kept over HTTP, where a gateway may serve Triton below one.

        Raises:
            TypeError: it is no `str`.
            ValueError: no or another scheme, no host, a port out of range, or parts that would be lost.
        """
        if not isinstance(url, str):
            raise TypeError(f"server URL is {url!r}, a {type(url).__name__}; expected a str")
        parts = urlsplit(url)
        wire, secure = _SCHEMES.get(parts.scheme, ("", False))
        path = parts.path.rstrip("/")
        lost = parts.username or parts.password or parts.query or parts.fragment or (path and wire == "grpc")
        port = _port(parts)
        if not wire or not parts.hostname or lost or port is None:
            raise ValueError(f"server URL is {url!r}; expected grpc://host:port, grpcs://…, http://… or https://…")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(wire, f"{host}:{port}{path}", secure)

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        return self.host_and_port.startswith(("localhost:", "127.", "[::1]:"))

    def __str__(self) -> str:
        return f"{self.wire}{'s' if self.secure else ''}://{self.host_and_port}"


def _port(parts: SplitResult) -> int | None:
    """Return the URL's port, its scheme's default without one, or None where it is out of range."""
    try:
        port = parts.port
    except ValueError:
        return None
    return _DEFAULT_PORTS.get(parts.scheme) if port is None else port or None


class Transport(Protocol):
    """One server over one wire. Safe to share between threads.

    Every method raises the errors of `flagtriton.errors` and nothing of the wire's own.
    """

    @property
    def address(self) -> str:
        """The server's URL, for messages."""
        ...

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        parameters: Mapping[str, OptionValue],
        timeout_s: float | None = None,
    ) -> InferenceReply:
        """Run one request; the tensors travel in binary. BYTES tensors are object arrays of `bytes`.

        It may take `timeout_s` seconds, but no more than the transport allows every request; None is that.
        """
        ...

    def model_config(self, model: str) -> ModelConfig:
        """Return a model's configuration; `ModelNotServedError` where there is none."""
        ...

    def ready_models(self) -> list[str]:
        """Return the names of all models that are ready, private steps included."""
        ...

    def close(self) -> None:
        """Close every connection; the transport is not used again."""
        ...


def queue_time_us(timeout_s: float) -> int:
    """Return for how many µs a request may wait in a queue whose client waits so long for it."""
    return int(min(timeout_s, _LONGEST_S) * 1e6)


@dataclass(frozen=True)
class Deadline:
    """When a call has to be done, with all of its requests and their retries.

    Attributes:
        at: by the monotonic clock, seconds; None is never.
    """

    at: float | None = None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Return the deadline so many seconds from now; None is none."""
        return cls(None if seconds is None else time.monotonic() + seconds)

    def left_s(self) -> float | None:
        """Return the seconds that are left, or None where there is no deadline.

        Raises:
            RequestTimeoutError: none is left.
        """
        if self.at is None:
            return None
        left = self.at - time.monotonic()
        if left <= 0:
            raise RequestTimeoutError("the call was not done within timeout_s; allow more, or send less")
        return left
