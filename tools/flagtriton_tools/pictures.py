# SPDX-License-Identifier: Apache-2.0
"""Pictures into files, without a screen; the only importer of matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["saved_axes"]


@contextmanager
def saved_axes(
    file: Path, *, size: tuple[float, float], rows: int = 1, columns: int = 1, dpi: int = 120, sharex: bool = False
) -> Iterator[Any]:
    """Yield matplotlib's axes, one or an array of them; write the figure to a file once they are drawn on.

    Args:
        file: a PNG; its folder is made.
        size: inches.
        rows: of axes; likewise columns.
        columns: see rows.
        dpi: dots an inch.
        sharex: all rows have one horizontal scale.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=size, sharex=sharex, layout="constrained")
    try:
        yield axes
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=dpi)
    finally:
        pyplot.close(figure)
