# SPDX-License-Identifier: Apache-2.0
"""A running server's models, looked at and loaded over HTTP."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

from flagtriton_tools.errors import ToolError

__all__ = ["SECRET_HEADER", "Admin", "ModelState", "Reply"]

SECRET_HEADER = "flagtriton-secret"
"""The HTTP header that carries the secret; over gRPC Triton puts `triton-grpc-protocol-` before its name."""


_STATES = ("", "UNAVAILABLE", "UNLOADING", "LOADING", "READY")
"""From the worst on; a version that failed beside one that answers does not matter to callers."""


@dataclass(frozen=True)
class Reply:
    """What the server answered; status 0 means that it did not."""

    status: int
    body: bytes = b""

    @property
    def error(self) -> str:
        """Triton's sentence about what went wrong, or the beginning of whatever came."""
        try:
            return _without_traceback(str(json.loads(self.body)["error"]))
        except (ValueError, KeyError, TypeError):
            return self.body[:200].decode(errors="replace") or f"status {self.status}"


@dataclass(frozen=True)
class ModelState:
    """One model of the server's repository.

    Attributes:
        state: `READY`, `LOADING`, `UNLOADING`, `UNAVAILABLE`, or empty for what has never been loaded.
        reason: of an unavailable one; `unloaded` where somebody asked for it.
        versions: those that are ready.
    """

    name: str
    state: str = ""
    reason: str = ""
    versions: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether Triton says so, which it also says of a model whose process is dead."""
        return self.state == "READY"

    @property
    def is_gone(self) -> bool:
        """Whether it takes no requests and has none left to answer."""
        return self.state not in ("READY", "UNLOADING")

    @property
    def cause(self) -> str:
        """The reason without the traceback behind it."""
        return _without_traceback(self.reason)


@dataclass(frozen=True)
class Admin:
    """Talks to one server. Safe to share between threads.

    Attributes:
        url: `http://host:port` or `https://host:port`.
        secret: for the operations that need it; None sends none.
        timeout_s: of everything but loading, which takes as long as it takes.
        ca_file: whose certificates are trusted over HTTPS; None is the system's.
    """

    url: str
    secret: str | None = field(default=None, repr=False)
    timeout_s: float = 10.0
    ca_file: str | None = None
    _context: ssl.SSLContext | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port out of range
            usable = False
        if not usable:
            raise ToolError(f"the server's URL is {self.url!r}; expected http://host:port or https://host:port")
        object.__setattr__(self, "url", self.url.rstrip("/"))
        if parts.scheme == "https":
            try:
                object.__setattr__(self, "_context", ssl.create_default_context(cafile=self.ca_file))
            except OSError as error:
                raise ToolError(f"--ca-file is {self.ca_file}: {error}; expected PEM certificates") from error

    def states(self) -> dict[str, ModelState] | None:
        """Return every model of the repository by name; None where the server does not answer.

        Raises:
            ToolError: it wants another secret.
        """
        reply = self.post("/v2/repository/index", {})
        if reply.status == 0:
            return None
        try:
            models = json.loads(self._allowed(reply).body)
            return _by_name(models)
        except (ValueError, TypeError, KeyError) as error:
            raise ToolError(f"{self.url} is not Triton's HTTP address; it answered {reply.error!r}") from error

    def load(self, name: str) -> None:
        """Load a model, or load it anew if its files have changed; return once it serves.

        Raises:
            ToolError: it does not load, and why.
        """
        self._done(self.post(f"/v2/repository/models/{quote(name)}/load", {}, timeout_s=None))

    def unload(self, name: str) -> None:
        """Take no new requests for a model; it ends once those it has are answered, after this returns.

        Raises:
            ToolError: the server refuses.
        """
        self._done(self.post(f"/v2/repository/models/{quote(name)}/unload", {}))

    def config(self, name: str) -> dict[str, Any] | None:
        """Return a loaded model's configuration; None where there is none."""
        reply = self.get(f"/v2/models/{quote(name)}/config")
        return json.loads(reply.body) if reply.status == 200 else None

    def get(self, path: str) -> Reply:
        """Return the answer to a GET request."""
        return self._send(path, None, self.timeout_s)

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float | None = 0.0) -> Reply:
        """Return the answer to a POST request; `timeout_s` 0 is the usual one, None is none."""
        return self._send(path, json.dumps(body).encode(), self.timeout_s if timeout_s == 0.0 else timeout_s)

    def _done(self, reply: Reply) -> None:
        if self._allowed(reply).status != 200:
            raise ToolError(f"{self.url}: {reply.error if reply.status else 'no answer'}")

    def _allowed(self, reply: Reply) -> Reply:
        if reply.status in (401, 403):
            raise ToolError(
                f"{self.url} wants its secret for this ({reply.error}); pass --secret-file, or run this as the user "
                "who runs `flagtriton serve`"
            )
        return reply

    def _send(self, path: str, body: bytes | None, timeout_s: float | None) -> Reply:
        headers = {SECRET_HEADER: self.secret} if self.secret else {}
        request = urllib.request.Request(self.url + path, body, headers)
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]  # none leads to loopback
        if self._context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=self._context))
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as reply:
                return Reply(reply.status, reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.read())
        except (OSError, HTTPException) as error:
            return Reply(0, str(error).encode())


def _by_name(models: Iterable[Mapping[str, str]]) -> dict[str, ModelState]:
    """Return how models stand, of which the server's index has each version: the best that can be said of any."""
    found: dict[str, ModelState] = {}
    for model in models:
        name, state = model["name"], model.get("state", "")
        other = found.get(name, ModelState(name))
        versions = (*other.versions, model.get("version", "")) if state == "READY" else other.versions
        said = max((other.state, other.reason), (state, model.get("reason", "")), key=_told_first)
        found[name] = ModelState(name, *said, versions)
    return found


def _told_first(said: tuple[str, str]) -> tuple[int, bool]:
    """Order what is said of a model's versions: the best state last, and of the same state what tells a cause."""
    state, reason = said
    return _STATES.index(state), reason not in ("", "unloaded")


def _without_traceback(message: str) -> str:
    """Return what stands before the places in the code that the Python backend adds to an exception's message."""
    return message.replace("\\n", "\n").split("\n\nAt:")[0].strip()
