# SPDX-License-Identifier: Apache-2.0
"""Refusals of a server or a gateway as exceptions of the SDK; the same for gRPC and HTTP."""

from __future__ import annotations

import html
import json
import re
from http import HTTPStatus
from typing import TypeVar

from flagtriton.errors import FlagTritonError
from flagtriton.transport.base import ServerAddress

__all__ = ["body_summary", "is_dead_step", "is_too_large", "refusal", "triton_message"]

E = TypeVar("E", bound=FlagTritonError)

_SUMMARY_LENGTH = 120
"""Characters of a body that an error message quotes."""

_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)
_TOO_LARGE = re.compile(
    r"(received|sent|send) message larger than max|message exceeds maximum size|http2 header with status: 413|"
    r"payload too large|request entity too large|larger than .{1,20}, which is what the proxy takes",
    re.IGNORECASE,
)
"""Messages of gRPC in C, Java and Go, and of docs/proxy.md's nginx, for an oversized message: it has no code."""

_TOO_LARGE_CODES = ("StatusCode.RESOURCE_EXHAUSTED", "StatusCode.INVALID_ARGUMENT", "StatusCode.UNKNOWN")


def refusal(kind: type[E], model: str, address: ServerAddress, message: str) -> E:
    """Return an error whose message names the model, the server and the reason.

    Triton puts the ensemble's name before a step's message and a request id before its own. Both are cut off: the
    message names the model already, and the SDK sends no ids.

    Args:
        kind: class of the error.
        model: name of the model; empty leaves it out.
        address: address of the server.
        message: the server's message.
    """
    subject = f"model {model!r} at {address}" if model else str(address)
    reason = message.removeprefix("[request id: <id_unknown>] ").removeprefix(f"in ensemble '{model}', ")
    error = kind(f"{subject}: {reason}")
    error.said = reason
    return error


def is_dead_step(message: str) -> bool:
    """Return whether Triton's error says that a model's process has died; a supervisor will restart it.

    Triton has no status code for this error.
    """
    return "Stub process '" in message and "is not healthy" in message


def is_too_large(status: str, message: str) -> bool:
    """Return whether a gRPC error is about one oversized message rather than about too many requests."""
    return status in _TOO_LARGE_CODES and bool(_TOO_LARGE.search(message))


def triton_message(body: bytes) -> str | None:
    """Return the message of Triton's HTTP error; None if another server sent the body."""
    try:
        message = json.loads(body)["error"]
    except (ValueError, TypeError, LookupError):
        return None
    return message if isinstance(message, str) else None


def body_summary(status: int, body: bytes) -> str:
    """Return an HTTP status and the beginning of another server's body, without HTML markup."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    text = _MARKUP.sub(" ", body[:65_536].decode(errors="replace"))
    words = " ".join(html.unescape(text).split())
    excerpt = words if len(words) <= _SUMMARY_LENGTH else f"{words[:_SUMMARY_LENGTH]}…"
    return f"HTTP {status} {phrase}".rstrip() + (f", {excerpt!r}" if excerpt else ", without a body")
