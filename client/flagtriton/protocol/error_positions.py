# SPDX-License-Identifier: Apache-2.0
"""The row of a request that an error is about: the form in the server's messages, and the caller's index.

A message of the server about one text begins with the kind, a space, the row in the request from 0, and a space. An
example is `text 3 has 2000000 bytes; …`. A request holds some of the caller's rows in another order. The SDK therefore
replaces the row by the caller's index.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "at_position", "row_of", "with_rows"]

KINDS = ("text", "query", "passage", "pair", "row")
"""Names of a text or a pair in messages; the names of the input tensors are among these."""

_POSITION = re.compile(rf"({'|'.join(KINDS)}) (\d+) ")


def at_position(kind: str, row: int) -> str:
    """Return the beginning of a message about one row of a request; a space follows it.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"a message cannot be about {kind!r}; expected one of {', '.join(KINDS)}")
    return f"{kind} {row}"


def row_of(message: str) -> int | None:
    """Return the row of the request that a message is about, or None if it is about the whole request."""
    found = _POSITION.match(message)
    return None if found is None else int(found[2])


def with_rows(message: str, rows: Sequence[int] | NDArray[np.integer[Any]]) -> str:
    """Return a message with another number in place of its row, if it is about one row.

    Args:
        message: a message about row r.
        rows: the number that replaces r is entry r.
    """
    row = row_of(message)
    if row is None or row >= len(rows):
        return message
    return _POSITION.sub(lambda found: f"{at_position(found[1], int(rows[row]))} ", message, count=1)
