# SPDX-License-Identifier: Apache-2.0
"""Which of its texts a refused request is about: the one form in which the server says it, and the caller's own index.

A message of the server's that is about one text begins with its kind, a blank, its row in the request from 0, and a
blank: `text 3 has 2000000 bytes; …`. The rows of a request are some of the caller's, in another order, so the SDK puts
the caller's index there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "at_position", "row_of", "with_rows"]

KINDS = ("text", "query", "passage", "pair", "row")
"""What a message calls a text, or a pair of them; the names of the input tensors are among these."""

_POSITION = re.compile(rf"({'|'.join(KINDS)}) (\d+) ")


def at_position(kind: str, row: int) -> str:
    """Return how a message begins that is about one row of a request; a blank follows.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"a message cannot be about {kind!r}; expected one of {', '.join(KINDS)}")
    return f"{kind} {row}"


def row_of(message: str) -> int | None:
    """Return the row of its request that a message is about, or None where it is about all of them."""
    found = _POSITION.match(message)
    return None if found is None else int(found[2])


def with_rows(message: str, rows: Sequence[int] | NDArray[np.integer[Any]]) -> str:
    """Return a message with another number in place of the row that it is about, if it is about one.

    Args:
        message: about row r.
        rows: what entry r puts there.
    """
    row = row_of(message)
    if row is None or row >= len(rows):
        return message
    return _POSITION.sub(lambda found: f"{at_position(found[1], int(rows[row]))} ", message, count=1)
