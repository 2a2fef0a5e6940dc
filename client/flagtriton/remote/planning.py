# SPDX-License-Identifier: Apache-2.0
"""Rows of a call and requests: which rows travel together, which halves are sent again, where replies' rows go.

Knows neither servers nor models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from flagtriton.errors import FlagTritonError, RequestTooLargeError
from flagtriton.protocol.error_positions import row_of, with_rows
from flagtriton.protocol.tensors import TensorSpec
from flagtriton.transport.base import InferenceReply

__all__ = ["Collector", "RowCollector", "Rows", "plan_pairs", "plan_requests", "renumber", "send_or_split"]

R_co = TypeVar("R_co", covariant=True)

Rows: TypeAlias = NDArray[np.int64]
"""`[B]` indices into the caller's list: the rows of one request."""

_TOO_LARGE_ADVICE = (
    "cut it, or raise the limit of what refused it (nginx: client_max_body_size; envoy: the buffer filter's "
    "max_request_bytes; a gRPC gateway: its maximum message size)"
)


class Collector(Protocol[R_co]):
    """The result of a call, built from replies in any order."""

    def add(self, rows: Rows, reply: InferenceReply) -> None:
        """Store a reply: its row r belongs to the caller's row `rows[r]`."""
        ...

    def result(self) -> R_co:
        """Return the result once every row has been added."""
        ...


class RowCollector:
    """Collects one output tensor of equally long rows, such as dense vectors or scores.

    Args:
        count: B, the number of the caller's rows, at least 1.
        output: the output tensor.
    """

    def __init__(self, count: int, output: TensorSpec) -> None:
        self._count = count
        self._output = output
        self._values: NDArray[np.float32] = np.empty((0, 0), np.float32)

    def add(self, rows: Rows, reply: InferenceReply) -> None:
        """Copy a reply's rows to the caller's rows."""
        values = reply[self._output.name]
        if not len(self._values):
            self._values = np.empty((self._count, values.shape[1]), np.float32)
        self._values[rows] = values

    def result(self) -> NDArray[np.float32]:
        """Return `[B, D]` float32."""
        return self._values


def plan_requests(
    sizes: NDArray[np.int64], *, max_rows: int, max_bytes: int, max_area: int | None = None
) -> list[Rows]:
    """Return the rows of each request, the longest texts first.

    Texts of similar length share a request, which keeps padding low. A request holds as many rows as all limits allow,
    and at least one.

    Args:
        sizes: `[B]` bytes of each text.
        max_rows: rows of one request, at most.
        max_bytes: bytes of one request's texts, at most. A larger text gets its own request.
        max_area: upper bound of rows times bytes of the longest text, to which a padded reply is proportional.

    Returns:
        The rows of each request; together a permutation of `0 … B - 1`.

    Raises:
        ValueError: a limit is below 1.
    """
    order = np.argsort(-sizes, kind="stable")
    return _cut(order, sizes, max_rows, max_bytes, max_area)


def plan_pairs(
    queries: Sequence[str],
    query_sizes: NDArray[np.int64],
    passage_sizes: NDArray[np.int64],
    *,
    max_rows: int,
    max_bytes: int,
) -> list[Rows]:
    """Return the pairs of each request. Pairs of one query stay together, as a request encodes each query once.

    Args:
        queries: query of each of P pairs.
        query_sizes: `[P]` bytes of the queries. A query counts once, with its first pair, even if several requests
            carry it.
        passage_sizes: `[P]` bytes of the passages.
        max_rows: pairs of one request, at most.
        max_bytes: bytes of one request's texts, at most.
    """
    first_pair: dict[str, int] = {}
    groups = np.fromiter((first_pair.setdefault(query, i) for i, query in enumerate(queries)), np.int64, len(queries))
    order = np.lexsort((-passage_sizes, groups))
    group_starts = order[np.diff(groups[order], prepend=-1) != 0]
    sizes = passage_sizes.copy()
    sizes[group_starts] += query_sizes[group_starts]
    return _cut(order, sizes, max_rows, max_bytes, None)


def send_or_split(
    rows: Rows,
    tensors: Mapping[str, NDArray[Any]],
    send: Callable[[Mapping[str, NDArray[Any]]], InferenceReply],
    unit: str,
) -> list[tuple[Rows, InferenceReply]]:
    """Send some rows and return them with their reply; send halves if the request is too large.

    Args:
        rows: `[B]` the caller's index of each row.
        tensors: `[B, 1]` texts by input name.
        send: function that sends tensors of some of the rows.
        unit: name of a row in messages.

    Raises:
        RequestTooLargeError: one row alone is too large; the message names the caller's index.
        FlagTritonError: any other error of `send`, with the caller's index where it is about one row.
    """
    try:
        return [(rows, send(tensors))]
    except RequestTooLargeError as error:
        if len(rows) == 1:
            raise _too_large(error, int(rows[0]), tensors, unit) from error
    except FlagTritonError as error:
        renumber(error, rows)
        raise
    middle = len(rows) // 2
    return [
        sent
        for half in (slice(middle), slice(middle, None))
        for sent in send_or_split(rows[half], {name: tensor[half] for name, tensor in tensors.items()}, send, unit)
    ]


def _too_large(
    error: RequestTooLargeError, index: int, tensors: Mapping[str, NDArray[Any]], unit: str
) -> RequestTooLargeError:
    """Return an error that names the request's only row."""
    size = sum(len(text) for tensor in tensors.values() for text in tensor.reshape(-1))
    named = RequestTooLargeError(
        f"{unit} {index} of {size:,} bytes is too large to be sent: {error}; {_TOO_LARGE_ADVICE}"
    )
    named.said, named.index = error.said, index
    return named


def renumber(error: FlagTritonError, rows: Sequence[int] | Rows) -> None:
    """Replace the request's row by the caller's index in an error's message, and set its `index`."""
    row = row_of(error.said)
    if row is None or row >= len(rows) or error.index is not None:
        return
    error.index = int(rows[row])
    subject = str(error).removesuffix(error.said)
    error.said = with_rows(error.said, rows)
    error.args = (subject + error.said,)


def _cut(order: Rows, sizes: NDArray[np.int64], max_rows: int, max_bytes: int, max_area: int | None) -> list[Rows]:
    """Return consecutive pieces of `order`, each as long as the limits allow."""
    if min(limit for limit in (max_rows, max_bytes, max_area) if limit is not None) < 1:
        area = "" if max_area is None else f", and an area of {max_area}"
        raise ValueError(f"limits are {max_rows} rows and {max_bytes} bytes{area}; expected at least 1 of each")
    cumulative = np.cumsum(sizes[order])
    requests = []
    start = 0
    while start < len(order):
        planned = cumulative[start - 1] if start else 0
        end = int(np.searchsorted(cumulative, planned + max_bytes, side="right"))
        end = min(end, start + max_rows)
        if max_area is not None:
            end = min(end, start + max_area // max(1, int(sizes[order[start]])))
        end = max(end, start + 1)
        requests.append(order[start:end])
        start = end
    return requests
