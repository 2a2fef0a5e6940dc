# SPDX-License-Identifier: Apache-2.0
"""One request's rows to the server: divided where they are too large together, and named by the caller's index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton.errors import FlagTritonError, RequestTooLargeError
from flagtriton.protocol.error_positions import row_of, with_rows
from flagtriton.remote.pool import Rows
from flagtriton.transport.base import InferenceReply

__all__ = ["renumber", "sent_in_parts"]

_ADVICE = (
    "cut it, or raise the limit of what refused it (nginx: client_max_body_size; envoy: the buffer filter's "
    "max_request_bytes; a gRPC gateway: its maximum message size)"
)


def sent_in_parts(
    rows: Rows,
    tensors: Mapping[str, NDArray[Any]],
    send: Callable[[Mapping[str, NDArray[Any]]], InferenceReply],
    unit: str,
) -> list[tuple[Rows, InferenceReply]]:
    """Return some rows with their reply, or halves of them with theirs where they are too large together.

    Args:
        rows: the caller's index of each.
        tensors: `[B, 1]` each: the texts of the rows.
        send: sends tensors of some rows.
        unit: what a row is called, in messages.

    Raises:
        RequestTooLargeError: one row alone is too large; it is named by the caller's index.
        FlagTritonError: any other; where it is about one row, that is the caller's index.
    """
    try:
        return [(rows, send(tensors))]
    except RequestTooLargeError as error:
        if len(rows) == 1:
            raise _too_large(error, int(rows[0]), tensors, unit) from error
    except FlagTritonError as error:
        renumber(error, rows)
        raise
    half = len(rows) // 2
    return [
        part
        for own in (slice(half), slice(half, None))
        for part in sent_in_parts(rows[own], {name: tensor[own] for name, tensor in tensors.items()}, send, unit)
    ]


def _too_large(
    error: RequestTooLargeError, index: int, tensors: Mapping[str, NDArray[Any]], unit: str
) -> RequestTooLargeError:
    """Return an error that names the one row that was sent."""
    size = sum(len(text) for tensor in tensors.values() for text in tensor.reshape(-1))
    told = RequestTooLargeError(f"{unit} {index} of {size:,} bytes is too large to be sent: {error}; {_ADVICE}")
    told.said, told.index = error.said, index
    return told


def renumber(error: FlagTritonError, rows: Sequence[int] | NDArray[np.int64]) -> None:
    """Put the caller's index in place of the request's in the message of an error, and into its `index`.

    Args:
        error: of one request.
        rows: the caller's index of each row of the request.
    """
    row = row_of(error.said)
    if row is None or row >= len(rows) or error.index is not None:
        return
    error.index = int(rows[row])
    subject = str(error).removesuffix(error.said)
    error.said = with_rows(error.said, rows)
    error.args = (subject + error.said,)
