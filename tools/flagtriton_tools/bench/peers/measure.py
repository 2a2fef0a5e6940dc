# SPDX-License-Identifier: Apache-2.0
"""Measures contestants in rounds.

Each takes one turn per round, so a slow minute of the machine affects all.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from flagtriton_tools.bench.peers.peers import Contestant

__all__ = ["Latency", "Result", "compare", "measure"]

_QUERY = "what is a vector database"
_QUERIES = 40


@dataclass(frozen=True)
class Latency:
    """Calls of one text each from `callers` callers at once; percentiles in milliseconds."""

    callers: int
    texts_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass
class Result:
    """Measurements of one contestant.

    Attributes:
        bulk_s: seconds for all texts, one value for each round.
        query_ms: milliseconds for one short text, the median of each round.
        latencies: latencies for each number of callers.
        peak_mb: most memory that each of its processes held, MB.
    """

    name: str
    bulk_s: list[float] = field(default_factory=list)
    query_ms: list[float] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    peak_mb: dict[str, float] = field(default_factory=dict)

    def texts_per_s(self, count: int) -> float:
        """Return the median rate over the rounds."""
        return count / statistics.median(self.bulk_s)

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as plain data."""
        return asdict(self)


def measure(
    contestants: Sequence[Contestant],
    *,
    count: int,
    rounds: int,
    callers: Sequence[int],
    report: Callable[[str], None],
) -> list[Result]:
    """Return the results of all contestants, in their order.

    Args:
        contestants: contestants, warmed up.
        count: number of texts of a bulk run.
        rounds: number of turns of each contestant.
        callers: numbers of concurrent callers to try on contestants that are servers.
        report: called with one line for each measurement.
    """
    results = [Result(each.name) for each in contestants]
    for number in range(1, rounds + 1):
        for each, result in zip(contestants, results, strict=True):
            result.bulk_s.append(each.bulk())
            result.query_ms.append(1e3 * statistics.median(each.query(_QUERY, _QUERIES)))
            report(
                f"round {number}/{rounds}: {each.name}: {count / result.bulk_s[-1]:.0f} texts/s, "
                f"one query {result.query_ms[-1]:.1f} ms"
            )
    for many in callers:
        for each, result in zip(contestants, results, strict=True):
            if each.serves:
                result.latencies.append(_latency(each, many))
                report(f"{many} callers: {each.name}: {result.latencies[-1].texts_per_s:.0f} texts/s")
    for each, result in zip(contestants, results, strict=True):
        result.peak_mb = each.peak_mb()
    return results


def compare(ours: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Return the speed-up of `ours`: the median of the rounds' ratios, the lowest and the highest.

    Args:
        ours: flagtriton's seconds, one value for each round.
        others: another contestant's seconds in the same rounds.
    """
    ratios = [other / own for own, other in zip(ours, others, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def _latency(contestant: Contestant, callers: int) -> Latency:
    contestant.callers(callers)  # the first run makes connections and builds kernels for new sizes
    total, each = contestant.callers(callers)
    p50, p95, p99 = (float(value) for value in np.percentile(each, [50, 95, 99]) * 1e3)
    return Latency(callers, len(each) / total, p50, p95, p99)
