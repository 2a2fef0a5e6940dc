# SPDX-License-Identifier: Apache-2.0
"""The `Transport` protocol, the request that passes through it, and server addresses. Imports no Triton client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import SplitResult, urlsplit

from numpy.typing import NDArray

from flagtriton.protocol.options.checks import OptionValue

__all__ = [
    "TLS",
    "InferRequest",
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
_DEFAULT_PORTS = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 443}

_MAX_QUEUE_S = 1e6
"""Upper bound of a queue timeout, seconds: infinity has no value in µs."""


@dataclass(frozen=True)
class InferRequest:
    """One request to one model.

    Attributes:
        model: name of the model.
        inputs: tensors by name, `[B, …]`. BYTES tensors are object arrays of `bytes`.
        outputs: names of the tensors to return.
        parameters: request parameters by name.
        timeout_s: seconds until the request fails; None is the transport's own limit.
    """

    model: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: Sequence[str]
    parameters: Mapping[str, OptionValue]
    timeout_s: float | None = None

    def limited_to(self, limit_s: float) -> float:
        """Return the request's timeout, or the transport's limit where that is lower; seconds."""
        return limit_s if self.timeout_s is None else min(self.timeout_s, limit_s)


@dataclass(frozen=True)
class TLS:
    """PEM files for an encrypted connection.

    Attributes:
        root_certificates: path of the trusted authorities; None trusts the system's.
        private_key: path of the client's key; None sends no client certificate.
        certificate_chain: path of the client's certificates; None sends none.
    """

    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The part of a Triton model configuration that clients need.

    Attributes:
        name: name of the model.
        max_batch_size: rows of one request, at most.
        parameters: the model's string parameters by name.
    """

    name: str
    max_batch_size: int
    parameters: Mapping[str, str]

    @classmethod
    def from_json(cls, name: str, config: Mapping[str, Any]) -> ModelConfig:
        """Return the configuration from the outermost JSON object that gRPC and HTTP return."""
        strings = {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}
        return cls(name, int(config.get("max_batch_size", 0)), strings)


@dataclass(frozen=True)
class ServerAddress:
    """Protocol, host and port of a server.

    Attributes:
        wire: `grpc` or `http`.
        host_and_port: host and port; over HTTP followed by the path that Triton is served below.
        secure: whether the connection uses TLS.
        name: host name in the server's certificate where the host is a resolved IP address; None is the host.
    """

    wire: str
    host_and_port: str
    secure: bool
    name: str | None = None

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """Return the address in `url`, with Triton's default port where the URL has none.

        An HTTP path is kept, as a gateway may serve Triton below one.

        Raises:
            TypeError: `url` is no `str`.
            ValueError: the scheme or host is missing or unknown, the port is out of range, or the URL has parts
                that an address cannot hold, such as a user name or a query.
        """
        if not isinstance(url, str):
            raise TypeError(f"server URL is {url!r}, a {type(url).__name__}; expected a str")
        split = urlsplit(url)
        wire, secure = _SCHEMES.get(split.scheme, ("", False))
        path = split.path.rstrip("/")
        unsupported = split.username or split.password or split.query or split.fragment or (path and wire == "grpc")
        port = _port(split)
        if not wire or not split.hostname or unsupported or port is None:
            raise ValueError(f"server URL is {url!r}; expected grpc://host:port, grpcs://…, http://… or https://…")
        host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
        return cls(wire, f"{host}:{port}{path}", secure)

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        return self.host_and_port.startswith(("localhost:", "127.", "[::1]:"))

    def __str__(self) -> str:
        return f"{self.wire}{'s' if self.secure else ''}://{self.host_and_port}"


def _port(url: SplitResult) -> int | None:
    """Return the URL's port, else the scheme's default; None if the port is out of range."""
    try:
        port = url.port
    except ValueError:
        return None
    return _DEFAULT_PORTS.get(url.scheme) if port is None else port or None


class Transport(Protocol):
    """Requests to one server, or to several that serve the same. Safe to share between threads.

    Every method raises the exceptions of `flagtriton.errors`, never those of gRPC or HTTP.
    """

    @property
    def address(self) -> str:
        """The server's URL, for messages."""
        ...

    def infer(self, request: InferRequest) -> InferenceReply:
        """Run one request and return its output tensors, which travel in binary.

        `request.timeout_s` can shorten the transport's own limit, not extend it.
        """
        ...

    def model_config(self, model: str) -> ModelConfig:
        """Return a model's configuration; raise `ModelNotServedError` if the server has no such model."""
        ...

    def ready_models(self) -> list[str]:
        """Return the names of all ready models, private steps included."""
        ...

    def close(self) -> None:
        """Close every connection. Later requests raise `ClosedError`."""
        ...


def queue_time_us(timeout_s: float) -> int:
    """Return Triton's queue timeout in µs for a client timeout in seconds."""
    return int(min(timeout_s, _MAX_QUEUE_S) * 1e6)
