# SPDX-License-Identifier: Apache-2.0
"""Connection settings: the keyword arguments that every class of the SDK takes."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from flagtriton.remote.retries import RetryPolicy
from flagtriton.transport.base import TLS, Transport
from flagtriton.transport.connect import connect

__all__ = ["ConnectionSettings"]

_LOOKUP_RETRY_S = 15.0
"""Seconds within which the lookup of a deployment is retried."""

_PRIORITIES = ("interactive", "bulk")


@dataclass(frozen=True)
class ConnectionSettings:
    """Keyword arguments of every class of the SDK in addition to FlagEmbedding's.

    Attributes:
        url: `grpc://`, `grpcs://`, `http://` or `https://` and `host:port`. A list of URLs, or the prefix `dns+`,
            spreads requests over servers of the same deployment. None takes `FLAGTRITON_URL`, else
            `grpc://localhost:8001`.
        headers: headers of every request.
        ssl: True encrypts, as `grpcs://` and `https://` do; a `TLS` names the certificates.
        timeout_s: seconds that one call may take, with all of its requests and their retries; None sets no limit.
        request_timeout_s: seconds that one try of one request may take.
        concurrency: requests of one object in flight at once.
        priority: `interactive` or `bulk`; interactive requests overtake bulk ones. None makes calls of several
            requests bulk and others interactive.
        retries: maximal number of retries if the server is unavailable, overloaded or slow; None sets no limit.
        retry_s: seconds within which a request is retried; a call's own deadline holds, too.
        show_progress: True and False switch the progress bar; None shows it after 2 s.
        transport: replacement for the connection to `url`, e.g. a `FakeTransport`.
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
    def pop_from(cls, arguments: MutableMapping[str, Any]) -> ConnectionSettings:
        """Remove the settings from keyword arguments and return them.

        Raises:
            ValueError: a number is out of range, or the priority is unknown.
        """
        names = [f.name for f in fields(cls) if f.name in arguments]
        settings = cls(**{name: arguments.pop(name) for name in names})
        minima = {"concurrency": 1, "retries": 0, "retry_s": 0}
        for name, minimum in minima.items():
            if (value := getattr(settings, name)) is not None and value < minimum:
                raise ValueError(f"{name} is {value}; expected at least {minimum}")
        for name in ("timeout_s", "request_timeout_s"):
            if (value := getattr(settings, name)) is not None and value <= 0:
                raise ValueError(f"{name} is {value}; expected seconds above 0")
        if settings.priority not in (None, *_PRIORITIES):
            raise ValueError(f"priority is {settings.priority!r}; expected one of {', '.join(_PRIORITIES)}, or None")
        return settings

    def is_bulk(self, request_count: int) -> bool:
        """Return whether a call of `request_count` requests is a bulk call."""
        return request_count > 1 if self.priority is None else self.priority == "bulk"

    @property
    def retry_policy(self) -> RetryPolicy:
        """Retries of a request."""
        return RetryPolicy(self.retries, self.retry_s)

    @property
    def lookup_retry_policy(self) -> RetryPolicy:
        """Retries of the lookup of a deployment. They end soon, as the URL may be wrong."""
        return RetryPolicy(self.retries, min(self.retry_s, _LOOKUP_RETRY_S))

    def open_transport(self) -> Transport:
        """Return `transport`, or a new transport to `url`."""
        if self.transport is not None:
            return self.transport
        tls = self.ssl if isinstance(self.ssl, TLS) else TLS() if self.ssl else None
        return connect(self.url, headers=self.headers, tls=tls, timeout_s=self.request_timeout_s)
