# SPDX-License-Identifier: Apache-2.0
"""Draws pictures into files without a screen.

No other module imports matplotlib.
"""

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
    """Yield matplotlib's axes, one or an array of them; write the figure to a file at the end of the block.

    Args:
        file: path of the PNG file; its folder is created.
        size: width and height, inches.
        rows: number of rows of axes.
        columns: number of columns of axes.
        dpi: dots per inch.
        sharex: give all rows one horizontal scale.
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
