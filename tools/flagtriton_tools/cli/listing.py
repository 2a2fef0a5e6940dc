# SPDX-License-Identifier: Apache-2.0
"""Table of a repository's deployments, for `flagtriton list`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rich.markup import escape
from rich.table import Table

from flagtriton.protocol.deployment import Deployment
from flagtriton_tools.cli.tables import fitted
from flagtriton_tools.repository.store import Entry

__all__ = ["list_table"]

_COLUMNS = ("version", "task", "class", "pooling", "tokens", "precision", "device", "attention", "checkpoint")
_DROPPED_FIRST = ("attention", "checkpoint", "device", "task", "version", "pooling", "tokens", "class")
"""Order in which columns are dropped if the terminal is too narrow; `--json` has all values."""


def list_table(entries: Sequence[Entry], width: int) -> Table:
    """Return the deployments, one in each row, with the columns that fit into `width` characters."""
    return fitted(partial(_table, entries), _COLUMNS, _DROPPED_FIRST, width)


def _table(entries: Sequence[Entry], columns: Sequence[str]) -> Table:
    table = Table("name", *columns, box=None)
    for entry in entries:
        cells = dict(zip(_COLUMNS, _cells(entry), strict=True))
        table.add_row(escape(entry.name), *(escape(cells[name]) for name in columns))
    return table


def _cells(entry: Entry) -> list[str]:
    served = entry.deployment
    return [
        _versions(entry),
        served.task,
        served.model_class,
        served.pooling_method,
        str(served.max_length),
        _precision(served),
        f"{served.device}{' sharded' if served.shard else ''}",
        served.attention or "at load",
        served.checkpoint,
    ]


def _precision(served: Deployment) -> str:
    return f"auto ({served.resolved_precision})" if served.precision == "auto" else served.precision


def _versions(entry: Entry) -> str:
    others = [version for version in entry.versions if version != entry.version]
    return f"{entry.version} (also {', '.join(map(str, others))})" if others else str(entry.version)
