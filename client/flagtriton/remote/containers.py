# SPDX-License-Identifier: Apache-2.0
"""What callers pass in place of a list, and would get a wrong answer for: tables, sets, arrays without axes.

A table yields its column names when it is iterated over, so it would be taken for a short list of texts. Imports none
of the libraries that make tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["refuse_container"]


def refuse_container(values: Any, argument: str, expected: str, of_table: str) -> None:  # noqa: ANN401 - unchecked
    """Raise where a table came, or what has no order or no elements.

    Args:
        values: what came.
        argument: what the caller's argument is called.
        expected: what should have come, for messages.
        of_table: how that is had from a table called `df`.

    Raises:
        TypeError: it is a table, a set, an array of bytes, or an array without axes.
    """
    kind = type(values).__name__
    columns = _columns(values)
    if columns is not None:
        shown = ", ".join(map(str, columns[:5])) + (", …" if len(columns) > 5 else "")
        raise TypeError(f"{argument} is a {kind} with the columns {shown}; expected {expected}: give {of_table}")
    if isinstance(values, (set, frozenset)):
        raise TypeError(f"{argument} is a {kind}, whose order is not the caller's; expected {expected}: give a list")
    if isinstance(values, (bytearray, memoryview)):
        raise TypeError(f"{argument} is a {kind}; expected {expected}: decode it")
    if getattr(values, "ndim", None) == 0:
        raise TypeError(f"{argument} is an array without axes; expected {expected}: give its .item()")


def _columns(values: object) -> list[Any] | None:
    """Return a table's column names; None for anything else.

    pandas and polars call them `columns`, pyarrow and datasets `column_names`; pyarrow's `columns` are the columns.
    """
    for name in ("column_names", "columns"):
        names = getattr(values, name, None)
        if isinstance(names, Mapping):  # of a dict of datasets
            names = next(iter(names.values()), [])
        if names is not None and not callable(names) and not isinstance(names, str):
            return list(names)
    return None
