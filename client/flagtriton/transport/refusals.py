# SPDX-License-Identifier: Apache-2.0
"""What a server, or a gateway before it, says when it refuses, as an error of the SDK's. The same for both wires."""

from __future__ import annotations

import html
import json
import re
from http import HTTPStatus
from typing import TypeVar

from flagtriton.errors import FlagTritonError
from flagtriton.transport.base import ServerAddress

__all__ = ["first_words", "is_too_large", "refusal", "refused_by_dead_step", "tritons_message"]

E = TypeVar("E", bound=FlagTritonError)

_WORDS = 120
_UNSEEN = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)
_TOO_LARGE = re.compile(
    r"(received|sent|send) message larger than max|message exceeds maximum size|http2 header with status: 413|"
    r"payload too large|request entity too large|larger than .{1,20}, which is what the proxy takes",
    re.IGNORECASE,
)
"""What gRPC in C, Java and Go, and the nginx of docs/proxy.md, say of a message over a limit: no code is for it."""

_CODES_OF_TOO_LARGE = ("StatusCode.RESOURCE_EXHAUSTED", "StatusCode.INVALID_ARGUMENT", "StatusCode.UNKNOWN")


def refusal(kind: type[E], model: str, address: ServerAddress, message: str) -> E:
    """Return an error of some kind that names the model, unless that is empty, the server, and what was said.

    Triton begins what a step of an ensemble said with the ensemble's name, which is not said twice, and what it says
    itself with a request's number, which the SDK's have not.
    """
    subject = f"model {model!r} at {address}" if model else str(address)
    said = message.removeprefix("[request id: <id_unknown>] ").removeprefix(f"in ensemble '{model}', ")
    error = kind(f"{subject}: {said}")
    error.said = said
    return error


def refused_by_dead_step(message: str) -> bool:
    """Return whether an error of Triton's says that a model's process has died, which a supervisor will mend.

    Triton gives such errors no code that tells.
    """
    return "Stub process '" in message and "is not healthy" in message


def is_too_large(status: str, message: str) -> bool:
    """Return whether a gRPC error says that a message is over a limit, rather than that there are too many."""
    return status in _CODES_OF_TOO_LARGE and bool(_TOO_LARGE.search(message))


def tritons_message(body: bytes) -> str | None:
    """Return the message of an error as Triton sends it over HTTP, or None: then somebody else sent it."""
    try:
        message = json.loads(body)["error"]
    except (ValueError, TypeError, LookupError):
        return None
    return message if isinstance(message, str) else None


def first_words(status: int, body: bytes) -> str:
    """Return an HTTP status and the beginning of a body that is not Triton's, without a page's markup."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    text = _UNSEEN.sub(" ", body[:65_536].decode(errors="replace"))
    words = " ".join(html.unescape(text).split())
    shown = words if len(words) <= _WORDS else f"{words[:_WORDS]}…"
    return f"HTTP {status} {phrase}".rstrip() + (f", {shown!r}" if shown else ", without a body")
