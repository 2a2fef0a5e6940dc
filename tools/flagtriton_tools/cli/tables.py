# SPDX-License-Identifier: Apache-2.0
"""Tables with only the columns for which a terminal has room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

__all__ = ["fitted"]


def fitted(
    make: Callable[[Sequence[str]], Table], columns: Sequence[str], dropped_first: Sequence[str], width: int
) -> Table:
    """Return a table with the columns that fit into a width.

    Args:
        make: builds the table of some columns.
        columns: all columns.
        dropped_first: columns that may be dropped, in this order.
        width: width of the terminal, characters.
    """
    kept = list(columns)
    for dropped in dropped_first:
        if _width_of(make(kept)) <= width:
            break
        kept.remove(dropped)
    return make(kept)


def _width_of(table: Table) -> int:
    wide = Console(width=10_000)
    return Measurement.get(wide, wide.options, table).maximum
