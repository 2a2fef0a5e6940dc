# SPDX-License-Identifier: Apache-2.0
"""Everything the SDK raises of its own.

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
    """The root of the tree.

    Attributes:
        said: what the server said, without the model and the URL; empty where it said nothing.
        index: of the caller's text or pair that the error is about; None where it is not about one.
    """

    said: str = ""
    index: int | None = None


class DeploymentMismatchError(FlagTritonError, ValueError):
    """The caller asked for something that this deployment does not do."""


class InvalidRequestError(FlagTritonError, ValueError):
    """The server refused an input or an option; sending it again would not help."""


class RequestTooLargeError(InvalidRequestError):
    """A request is larger than a server, or a gateway before it, takes. It was divided as far as that goes."""


class ModelNotServedError(FlagTritonError, LookupError, ValueError):
    """The server has no deployment of that name. A `ValueError` as FlagEmbedding's factory raises for unknown names."""


class AccessDeniedError(FlagTritonError, PermissionError):
    """The server, or a proxy before it, wants credentials that did not come."""


class ServerUnavailableError(FlagTritonError, ConnectionError):
    """The server is unreachable, still loading, or has more requests queued than it accepts.

    Attributes:
        retry_after_s: seconds that the server, or a proxy before it, asks to be left alone for; None if it did not say.
    """

    retry_after_s: float | None = None


class WrongServerError(ServerUnavailableError):
    """What answers at the URL is not what the URL says; asking again would not help."""


class RequestTimeoutError(FlagTritonError, TimeoutError):
    """No answer came to one request within `request_timeout_s` seconds, or to all of a call within `timeout_s`."""


class ServerError(FlagTritonError, RuntimeError):
    """The server accepted a request and then failed on it."""


class ClosedError(FlagTritonError, RuntimeError):
    """An object was used after its `close()`."""


class ForkedProcessError(FlagTritonError, RuntimeError):
    """This process was forked from one in which gRPC was at work, and gRPC cannot work in it."""


class MissingExtraError(FlagTritonError, ImportError):
    """A package is needed that `pip install flagtriton` alone does not bring."""


class DeploymentWarning(UserWarning):
    """An argument that is the server's business differs from what is served, or has no effect here."""
