# SPDX-License-Identifier: Apache-2.0
"""How the SDK is told to talk to its server."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from flagtriton.remote.retries import RetryPolicy
from flagtriton.transport.base import TLS, Transport
from flagtriton.transport.connect import connect

__all__ = ["PRIORITIES", "ConnectionSettings"]

_FIRST_RETRY_S = 15.0

PRIORITIES = ("interactive", "bulk")


@dataclass(frozen=True)
class ConnectionSettings:
    """What every class of the SDK takes as keyword arguments beside FlagEmbedding's.

    Attributes:
        url: `grpc://`, `grpcs://`, `http://` or `https://` and `host:port`; several of them as a list, or `dns+` before
            one, spread requests over servers that serve the same; None takes `FLAGTRITON_URL`, else
            `grpc://localhost:8001`.
        headers: sent with every request.
        ssl: True encrypts, as `grpcs://` and `https://` do; a `TLS` says with which certificates.
        timeout_s: seconds that one call may take in all, with all of its requests and their retries; None sets no
            limit, as a corpus may take hours.
        request_timeout_s: seconds that one try of one request may take; over HTTP, that each read of it may take.
        concurrency: requests that one object's long lists keep in flight at once.
        priority: `interactive` or `bulk`, which interactive requests overtake; None is bulk for calls of more than
            one request, and interactive for the others.
        retries: further tries of a request when the server is away, overloaded or late; None is as many as there is
            time for.
        retry_s: seconds within which a request is tried again; a call's own deadline holds, too.
        show_progress: True and False switch the progress bar; None shows one where a call takes over 2 s.
        transport: used in place of `url` and all that belongs to it, e.g. a `FakeTransport`.
    """

    url: str | Sequence[str] | None = None
    headers: Mapping[str, str] | None = None
    ssl: bool | TLS = False
    timeout_s: float | None = None
    request_timeout_s: float = 60.0
    concurrency: int = 4
    priority: str | None = None
    retries: int | None = None
    retry_s: float = 300.0
    show_progress: bool | None = None
    transport: Transport | None = None

    @classmethod
    def taken_from(cls, arguments: MutableMapping[str, Any]) -> ConnectionSettings:
        """Return the settings among keyword arguments, which lose them.

        Raises:
            ValueError: a number is out of range, or there is no such priority.
        """
        names = [f.name for f in fields(cls) if f.name in arguments]
        settings = cls(**{name: arguments.pop(name) for name in names})
        least = {"concurrency": 1, "retries": 0, "retry_s": 0}
        for name, number in least.items():
            if (value := getattr(settings, name)) is not None and value < number:
                raise ValueError(f"{name} is {value}; expected at least {number}")
        for name in ("timeout_s", "request_timeout_s"):
            if (value := getattr(settings, name)) is not None and value <= 0:
                raise ValueError(f"{name} is {value}; expected seconds above 0")
        if settings.priority not in (None, *PRIORITIES):
            raise ValueError(f"priority is {settings.priority!r}; expected one of {', '.join(PRIORITIES)}, or None")
        return settings

    def is_bulk(self, requests: int) -> bool:
        """Return whether the requests of a call may be overtaken, so many as there are."""
        return requests > 1 if self.priority is None else self.priority == "bulk"

    @property
    def retry_policy(self) -> RetryPolicy:
        """How long a request of a deployment that was found is tried again."""
        return RetryPolicy(self.retries, self.retry_s)

    @property
    def first_retry_policy(self) -> RetryPolicy:
        """The same for finding it, which does not wait long: the URL may be wrong."""
        return RetryPolicy(self.retries, min(self.retry_s, _FIRST_RETRY_S))

    def open_transport(self) -> Transport:
        """Return the transport that these settings describe."""
        if self.transport is not None:
            return self.transport
        tls = self.ssl if isinstance(self.ssl, TLS) else TLS() if self.ssl else None
        return connect(self.url, headers=self.headers, tls=tls, timeout_s=self.request_timeout_s)
