# SPDX-License-Identifier: Apache-2.0
"""Queries, loads and unloads the models of a running server over HTTP."""

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
"""HTTP header that carries the secret. Over gRPC Triton puts `triton-grpc-protocol-` before its name."""


_STATES = ("", "UNAVAILABLE", "UNLOADING", "LOADING", "READY")
"""From worst to best. A version that failed does not matter to callers while another version answers."""


@dataclass(frozen=True)
class Reply:
    """Reply of the server. Status 0 means that there was no reply."""

    status: int
    body: bytes = b""

    @property
    def error(self) -> str:
        """Error message of Triton, or the first 200 bytes of any other body."""
        try:
            return _without_traceback(str(json.loads(self.body)["error"]))
        except (ValueError, KeyError, TypeError):
            return self.body[:200].decode(errors="replace") or f"status {self.status}"


@dataclass(frozen=True)
class ModelState:
    """One model of the server's repository.

    Attributes:
        state: `READY`, `LOADING`, `UNLOADING`, `UNAVAILABLE`, or empty for a model that was never loaded.
        reason: reason for `UNAVAILABLE`; `unloaded` after an unload request.
        versions: versions that are ready.
    """

    name: str
    state: str = ""
    reason: str = ""
    versions: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether Triton calls the model ready, which it also does if the model's process is dead."""
        return self.state == "READY"

    @property
    def is_gone(self) -> bool:
        """Whether the model takes no requests and has none left to answer."""
        return self.state not in ("READY", "UNLOADING")

    @property
    def cause(self) -> str:
        """The reason without its traceback."""
        return _without_traceback(self.reason)


@dataclass(frozen=True)
class Admin:
    """Client of one server's API. Safe to share between threads.

    Attributes:
        url: `http://host:port` or `https://host:port`.
        secret: secret for the operations that need it; None sends none.
        timeout_s: timeout of each request except loading, which has none.
        ca_file: PEM file with the trusted certificates for HTTPS; None means those of the system.
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
        """Return every model of the repository by name, or None if the server does not answer.

        Raises:
            ToolError: the server requires another secret, or the reply is not Triton's.
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
        """Load a model, or reload it if its files have changed. Return once it is ready.

        Raises:
            ToolError: the model does not load. The message has the reason.
        """
        self._done(self.post(f"/v2/repository/models/{quote(name)}/load", {}, timeout_s=None))

    def unload(self, name: str) -> None:
        """Stop new requests to a model. The model ends after this returns, once its present requests are answered.

        Raises:
            ToolError: the server refuses.
        """
        self._done(self.post(f"/v2/repository/models/{quote(name)}/unload", {}))

    def config(self, name: str) -> dict[str, Any] | None:
        """Return the configuration of a loaded model, or None if there is none."""
        reply = self.get(f"/v2/models/{quote(name)}/config")
        return json.loads(reply.body) if reply.status == 200 else None

    def get(self, path: str) -> Reply:
        """Return the reply to a GET request."""
        return self._send(path, None, self.timeout_s)

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float | None = 0.0) -> Reply:
        """Return the reply to a POST request. `timeout_s` 0 means the usual timeout, None means no timeout."""
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
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]  # no proxy leads to loopback
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
    """Return the state of each model. The index lists every version, and the best version counts."""
    found: dict[str, ModelState] = {}
    for model in models:
        name, state = model["name"], model.get("state", "")
        other = found.get(name, ModelState(name))
        versions = (*other.versions, model.get("version", "")) if state == "READY" else other.versions
        said = max((other.state, other.reason), (state, model.get("reason", "")), key=_told_first)
        found[name] = ModelState(name, *said, versions)
    return found


def _told_first(said: tuple[str, str]) -> tuple[int, bool]:
    """Order the states of a model's versions. The best state is last; of equal states the one with a cause is last."""
    state, reason = said
    return _STATES.index(state), reason not in ("", "unloaded")


def _without_traceback(message: str) -> str:
    """Return the message without the code locations that the Python backend adds to an exception."""
    return message.replace("\\n", "\n").split("\n\nAt:")[0].strip()
