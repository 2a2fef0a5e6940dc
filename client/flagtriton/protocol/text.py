# SPDX-License-Identifier: Apache-2.0
"""Callers' texts: the accepted values, and their conversion to a BYTES tensor. Independent of servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_encodable", "shown", "text_sizes", "text_tensor"]


def check_encodable(text: str, what: str) -> None:
    """Raise if a text has no UTF-8 form.

    Raises:
        ValueError: it holds a lone surrogate; the message contains `what` and the position.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        character = f"U+{ord(text[error.start]):04X}"
        raise ValueError(f"{what} holds a lone surrogate, {character}, at position {error.start}") from error


def text_sizes(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return `[B]` length of each text in bytes of UTF-8; in every script about 3 to 5 bytes make a token."""
    return np.fromiter((len(text) if text.isascii() else len(text.encode()) for text in texts), np.int64, len(texts))


def text_tensor(texts: Sequence[str]) -> NDArray[Any]:
    """Return `[B, 1]` UTF-8 `bytes`, dtype object."""
    rows = np.empty((len(texts), 1), dtype=np.object_)
    rows[:, 0] = [text.encode() for text in texts]
    return rows


def shown(value: object, limit: int = 60) -> str:
    """Return the `repr` of a value for a message, with at most `limit` characters."""
    whole = repr(value)
    return whole if len(whole) <= limit else f"{whole[: limit - 1]}…"
