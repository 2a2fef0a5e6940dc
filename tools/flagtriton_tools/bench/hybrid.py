# SPDX-License-Identifier: Apache-2.0
"""`flagtriton bench --hybrid`: BGE-M3's three outputs and its scores of pairs, beside FlagEmbedding's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import urllib3
from rich.table import Table

from flagtriton import BGEM3FlagModel
from flagtriton_tools.bench.callers import seconds_of
from flagtriton_tools.bench.measure import compare
from flagtriton_tools.bench.memory import tree_peaks_mb
from flagtriton_tools.bench.ours import Place

__all__ = ["HybridContestant", "HybridResult", "OursHybrid", "hybrid_tables", "measure_hybrid", "scored_pairs"]

ALL: dict[str, Any] = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
TASKS = ("dense", "three outputs", "one query")
OWN_TASKS = ("one long query", "distinct queries")
"""Of ours alone: a query as long as a passage in every pair, and another such in each. They differ in what encoding a
repeated query once saves."""

_QUERY = "what is a vector database"
_PASSAGES = 200


class HybridContestant(Protocol):
    """Somebody who serves BGE-M3."""

    name: str

    def run(self, task: str) -> float:
        """Do one of `TASKS`; return how many seconds it took."""

    def peak_mb(self) -> dict[str, float]:
        """Return the most memory each of its processes has held."""


@dataclass
class HybridResult:
    """What one contestant did.

    Attributes:
        seconds: by task, one a round.
        encoder_s: of our encoder's own clock, likewise.
        peak_mb: the most memory each of its processes held.
    """

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    encoder_s: dict[str, list[float]] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return asdict(self)


def scored_pairs(texts: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of every scoring task: 200 passages, each with its query."""
    passages = [texts[i % len(texts)] for i in range(_PASSAGES)]
    long = texts[-1].split()
    return {
        "one query": [(_QUERY, passage) for passage in passages],
        "one long query": [(" ".join(long), passage) for passage in passages],
        # Turned by a word each, they have the same tokens and are 200 texts none the less.
        "distinct queries": [
            (" ".join([f"{i}", *long[i % len(long) :], *long[: i % len(long)]]), passage)
            for i, passage in enumerate(passages)
        ],
    }


class OursHybrid:
    """A deployment of ours, behind the SDK.

    Args:
        place: where it is served.
        texts: what is embedded.
    """

    def __init__(self, place: Place, texts: Sequence[str]) -> None:
        self.name = "flagtriton"
        self._place = place
        self._texts = list(texts)
        self._pairs = scored_pairs(texts)
        self._model = BGEM3FlagModel(place.model, url=place.url, pooling_method=None, show_progress=False)
        self._model.encode(self._texts[:64], **ALL)
        self._model.compute_score(self._pairs["one query"][:8])

    def run(self, task: str) -> float:
        """Do one of `TASKS` or `OWN_TASKS`; return how many seconds it took."""
        if task in self._pairs:
            return seconds_of(self._model.compute_score, self._pairs[task])
        chosen: dict[str, Any] = ALL if task == "three outputs" else {}
        return seconds_of(lambda texts: self._model.encode(texts, **chosen), self._texts)

    def peak_mb(self) -> dict[str, float]:
        """Return the most memory each of the server's processes has held."""
        return {} if self._place.server_pid is None else tree_peaks_mb(self._place.server_pid)

    def encoder_s(self) -> float:
        """Return the seconds that the encoder's executions have taken since it was loaded, by Triton's clock."""
        if self._place.http_url is None:
            return 0.0
        url = f"{self._place.http_url}/v2/models/{self._place.model}_encoder/stats"
        batches = urllib3.request("GET", url).json()["model_stats"][0]["batch_stats"]
        return sum(int(batch["compute_infer"]["ns"]) for batch in batches) / 1e9


def measure_hybrid(
    ours: OursHybrid, peers: Sequence[HybridContestant], *, rounds: int, report: Callable[[str], None]
) -> list[HybridResult]:
    """Return everybody's results, ours first; in every round each takes its turn at each task."""
    results = [HybridResult(each.name) for each in (ours, *peers)]
    for number in range(1, rounds + 1):
        for task in (*TASKS, *OWN_TASKS):
            for each, result in zip((ours, *peers), results, strict=True):
                if each is not ours and task in OWN_TASKS:
                    continue
                before = ours.encoder_s()
                result.seconds.setdefault(task, []).append(each.run(task))
                if each is ours:
                    result.encoder_s.setdefault(task, []).append(ours.encoder_s() - before)
                report(f"round {number}/{rounds}: {each.name}: {task}: {result.seconds[task][-1]:.2f} s")
    for each, result in zip((ours, *peers), results, strict=True):
        result.peak_mb = each.peak_mb()
    return results


def hybrid_tables(results: Sequence[HybridResult], count: int) -> list[Table]:
    """Return the tables; the first result is ours.

    Args:
        results: everybody's.
        count: texts that were embedded.
    """
    ours = results[0]
    table = Table("", "task", "seconds", "flagtriton is", "encoder", title=f"{count} texts, {_PASSAGES} pairs")
    for result in results:
        for task, seconds in result.seconds.items():
            times, least, most = compare(ours.seconds[task], seconds)
            ratio = "" if result is ours else f"{times:.2f}x ({least:.2f} to {most:.2f})"
            clock = f"{statistics.median(result.encoder_s[task]):.2f} s" if result is ours else ""
            table.add_row(result.name, task, f"{statistics.median(seconds):.2f}", ratio, clock)
    peaks = Table("", "process", "peak MB", title="memory")
    for result in results:
        for process, held in result.peak_mb.items():
            peaks.add_row(result.name, process, f"{held:.0f}")
        peaks.add_row(result.name, "together", f"{sum(result.peak_mb.values()):.0f}")
    return [table, peaks]
