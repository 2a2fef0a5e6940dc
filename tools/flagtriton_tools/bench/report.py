# SPDX-License-Identifier: Apache-2.0
"""Output of a benchmark: tables, a picture, and one JSON line for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from rich.table import Table

from flagtriton_tools.bench.peers.measure import Result, compare
from flagtriton_tools.pictures import saved_axes

__all__ = ["draw", "json_line", "machine", "tables"]

_PACKAGES = ("flagtriton", "torch", "transformers", "tritonclient", "FlagEmbedding", "sentence-transformers")


class Measured(Protocol):
    """Measurements of one contestant, or of one case."""

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as plain data."""


def tables(results: Sequence[Result], count: int, tokens: int) -> list[Table]:
    """Return the tables of a benchmark. The first result is flagtriton's.

    Args:
        results: results of all contestants.
        count: number of texts of a bulk run.
        tokens: number of tokens of these texts.
    """
    bulk = Table("", "texts/s", "tokens/s", "flagtriton is", "one query", title=f"{count} texts, {tokens} tokens")
    for result in results:
        rate = result.texts_per_s(count)
        times, least, most = compare(results[0].bulk_s, result.bulk_s)
        ratio = "" if result is results[0] else f"{times:.2f}x ({least:.2f} to {most:.2f})"
        query = statistics.median(result.query_ms)
        bulk.add_row(result.name, f"{rate:.0f}", f"{rate * tokens / count:.0f}", ratio, f"{query:.1f} ms")
    made = [bulk]
    if any(result.latencies for result in results):
        callers = Table("", "callers", "texts/s", "p50", "p95", "p99", title="calls of one text each")
        for result in results:
            for at in result.latencies:
                times_ms = (f"{value:.1f} ms" for value in (at.p50_ms, at.p95_ms, at.p99_ms))
                callers.add_row(result.name, str(at.callers), f"{at.texts_per_s:.0f}", *times_ms)
        made.append(callers)
    peaks = Table("", "process", "peak MB", title="memory")
    for result in results:
        for process, held in result.peak_mb.items():
            peaks.add_row(result.name, process, f"{held:.0f}")
    return [*made, peaks]


def draw(results: Sequence[Result], count: int, picture: Path) -> Path:
    """Draw rates and latencies; return the path of the picture."""
    with saved_axes(picture, size=(11, 4), columns=2) as (left, right):
        names = [result.name for result in results]
        rates = [result.texts_per_s(count) for result in results]
        bars = left.barh(
            names[::-1], rates[::-1], color=["#4c72b0" if name == names[0] else "#bbbbbb" for name in names[::-1]]
        )
        left.bar_label(bars, fmt="%.0f", padding=3)
        left.margins(x=0.15)  # room for the numbers
        left.set_xlabel("texts a second, in bulk")
        for result in results:
            if not result.latencies:
                continue
            rates = [at.texts_per_s for at in result.latencies]
            (line,) = right.plot(rates, [at.p50_ms for at in result.latencies], "o-", label=f"{result.name}, p50")
            right.plot(rates, [at.p99_ms for at in result.latencies], "o--", color=line.get_color(), label="p99")
            for at in result.latencies:
                place = (at.texts_per_s, at.p50_ms)
                right.annotate(str(at.callers), place, xytext=(6, -10), textcoords="offset points", fontsize=8)
        right.set(
            xlabel="texts a second, one text a call",
            ylabel="ms a call",
            yscale="log",
            title="the numbers are callers at once",
        )
        right.margins(x=0.1)
        right.yaxis.set_major_formatter("{x:g}")
        if right.lines:
            right.legend(fontsize=8)
    return picture


def machine() -> dict[str, Any]:
    """Return a description of the machine and of the package versions."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a device file
        lines = file.read().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "amx": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def json_line(content: dict[str, Any], results: Sequence[Measured]) -> str:
    """Return all measurements as one line of JSON."""
    return json.dumps({**content, "machine": machine(), "results": [result.to_json() for result in results]})


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
