# SPDX-License-Identifier: Apache-2.0
"""Measures how the duration of a call grows with the number and with the length of its texts."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flagtriton_tools.bench.peers.deployment_under_test import Ours, Place
from flagtriton_tools.pictures import saved_axes
from flagtriton_tools.workload import Workload, make_texts

__all__ = ["draw_growth", "measure_growth", "to_json"]

_COUNTS = (1, 4, 16, 64, 256, 1024, 4096)
_WORDS = (4, 8, 16, 32, 64, 128, 256)
_TEXTS_OF_A_LENGTH = 256
_REPEATS = 3


@dataclass(frozen=True)
class Point:
    """One call: the number of its texts, the words of each, and its median duration in seconds."""

    texts: int
    words: float
    seconds: float


def measure_growth(place: Place, pooling_method: str, report: Callable[[str], None]) -> tuple[list[Point], list[Point]]:
    """Return calls of 1 to 4096 texts of the usual lengths, and calls of 256 texts with 4 to 256 words.

    Args:
        place: address of a running deployment.
        pooling_method: pooling method of the deployment.
        report: called with one line for each measurement.
    """
    by_count = [_point(place, pooling_method, Workload(count), report) for count in _COUNTS]
    lengths = [Workload(_TEXTS_OF_A_LENGTH, words + 0.5, 0.0, least_words=1, most_words=1000) for words in _WORDS]
    return by_count, [_point(place, pooling_method, workload, report) for workload in lengths]


def draw_growth(by_count: list[Point], by_words: list[Point], picture: Path) -> Path:
    """Draw both on logarithmic axes, with a line of proportional growth; return the path of the picture."""
    with saved_axes(picture, size=(11, 4), columns=2) as (left, right):
        _curve(left, [(point.texts, point.seconds) for point in by_count])
        left.set(xlabel="texts in one call (42 words in the median)", ylabel="seconds")
        _curve(right, [(point.words, point.seconds) for point in by_words])
        right.set(xlabel=f"words of each text ({_TEXTS_OF_A_LENGTH} texts in one call)", ylabel="seconds")
    return picture


def to_json(by_count: list[Point], by_words: list[Point]) -> dict[str, Any]:
    """Return both as plain data."""
    return {"by_count": [asdict(p) for p in by_count], "by_words": [asdict(p) for p in by_words]}


def _point(place: Place, pooling_method: str, workload: Workload, report: Callable[[str], None]) -> Point:
    ours = Ours(place, make_texts(workload), pooling_method)
    ours.bulk()
    seconds = statistics.median(ours.bulk() for _ in range(_REPEATS))
    report(f"{workload.count} texts of {workload.median_words:.0f} words: {seconds * 1e3:.1f} ms")
    return Point(workload.count, int(workload.median_words), seconds)


def _curve(axes: Any, points: list[tuple[float, float]]) -> None:  # noqa: ANN401 - axes of matplotlib
    xs, ys = zip(*points, strict=True)
    axes.loglog(xs, ys, "o-", color="#4c72b0", label="measured")
    axes.loglog(xs, [ys[-1] * x / xs[-1] for x in xs], ":", color="#888888", label="proportional to the last")
    axes.legend()
