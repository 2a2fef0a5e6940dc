# SPDX-License-Identifier: Apache-2.0
"""The exceptions of the SDK.

    FlagTritonError
    ├── DeploymentMismatchError   (ValueError)       the caller asked for what the deployment does not do
    ├── InvalidRequestError       (ValueError)       the server refused an input or option
    │   └── RequestTooLargeError                     a limit on requests, of a server's or a gateway's
    ├── ModelNotServedError       (LookupError and   no deployment of that name
    │                              ValueError)
    ├── AccessDeniedError         (PermissionError)  a header or certificate is missing or wrong
    ├── ServerUnavailableError    (ConnectionError)  unreachable, still loading, or overloaded; retries are used up
    │   └── WrongServerError                         another protocol, another server, an untrusted certificate
    ├── RequestTimeoutError       (TimeoutError)     no answer within `timeout_s` or `request_timeout_s`
    ├── ServerError               (RuntimeError)     the server failed on a request it had accepted
    ├── ClosedError               (RuntimeError)     the object was used after its `close()`
    ├── ForkedProcessError        (RuntimeError)     gRPC cannot work in this process, as it was forked
    └── MissingExtraError         (ImportError)      a package is needed that this installation lacks

Each is also the built-in exception that a caller of FlagEmbedding would already be catching.
`DeploymentWarning` is the category of every warning.
"""

from __future__ import annotations

__all__ = [
    "AccessDeniedError",
    "ClosedError",
    "DeploymentMismatchError",
    "DeploymentWarning",
    "FlagTritonError",
    "ForkedProcessError",
    "InvalidRequestError",
    "MissingExtraError",
    "ModelNotServedError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "ServerError",
    "ServerUnavailableError",
    "WrongServerError",
]


class FlagTritonError(Exception):
    """The base class of the SDK's exceptions.

    Attributes:
        said: the server's message without model and URL; empty without one.
        index: index of the text or pair in the caller's list that caused the error; None if no single one did.
    """

    said: str = ""
    index: int | None = None


class DeploymentMismatchError(FlagTritonError, ValueError):
    """The deployment does not match the caller's arguments."""


class InvalidRequestError(FlagTritonError, ValueError):
    """The server refused an input or an option. A retry would fail again."""


class RequestTooLargeError(InvalidRequestError):
    """One text or pair alone exceeds a size limit of the server or a gateway."""


class ModelNotServedError(FlagTritonError, LookupError, ValueError):
    """The server has no deployment of that name. FlagEmbedding's factory raises `ValueError` for unknown names."""


class AccessDeniedError(FlagTritonError, PermissionError):
    """The server or a proxy refused the request's credentials."""


class ServerUnavailableError(FlagTritonError, ConnectionError):
    """The server is unreachable, still loading, or its queue is full.

    Attributes:
        retry_after_s: wait that the server or a proxy asks for, seconds; None without one.
    """

    retry_after_s: float | None = None


class WrongServerError(ServerUnavailableError):
    """Another server, protocol or certificate answers at the URL. A retry would fail again."""


class RequestTimeoutError(FlagTritonError, TimeoutError):
    """A request got no reply within `request_timeout_s` seconds, or a call was not done within `timeout_s`."""


class ServerError(FlagTritonError, RuntimeError):
    """The server failed on a request that it had accepted."""


class ClosedError(FlagTritonError, RuntimeError):
    """An object was used after its `close()`."""


class ForkedProcessError(FlagTritonError, RuntimeError):
    """gRPC does not work in this process, as it was forked while a gRPC channel was open."""


class MissingExtraError(FlagTritonError, ImportError):
    """An optional package is not installed."""


class DeploymentWarning(UserWarning):
    """An argument differs from the deployment, or has no effect."""
