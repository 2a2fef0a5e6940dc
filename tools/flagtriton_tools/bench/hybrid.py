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
from flagtriton_tools.bench.memory import PeakMemory
from flagtriton_tools.bench.ours import Place

__all__ = ["HybridContestant", "HybridResult", "OursHybrid", "hybrid_table", "measure_hybrid", "scored_pairs"]

ALL: dict[str, Any] = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
TASKS = ("three outputs", "one query")
OWN_TASKS = ("dense", "one long query", "distinct queries")
"""Of ours alone: what the two further outputs add to the dense one, and what encoding a repeated query once saves: a
query as long as a passage in every pair, and another such in each."""

_QUERY = "what is a vector database"
_PASSAGES = 200


class HybridContestant(Protocol):
    """Somebody who serves BGE-M3."""

    name: str
    pid: int | None  # the process that does the work, or that others do it for; None where it is elsewhere

    def run(self, task: str) -> float:
        """Do one of `TASKS`; return how many seconds it took."""


@dataclass
class HybridResult:
    """What one contestant did.

    Attributes:
        seconds: by task, one a round.
        encoder_s: of our encoder's own clock, likewise.
        peak_mb: by task, the most memory that its processes held together; what they share counts once.
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
        self.pid = place.server_pid
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
                before, memory = ours.encoder_s(), PeakMemory(each.pid)
                with memory.watched():
                    result.seconds.setdefault(task, []).append(each.run(task))
                result.peak_mb[task] = max(memory.mb, result.peak_mb.get(task, 0.0))
                if each is ours:
                    result.encoder_s.setdefault(task, []).append(ours.encoder_s() - before)
                report(f"round {number}/{rounds}: {each.name}: {task}: {result.seconds[task][-1]:.2f} s")
    return results


def hybrid_table(results: Sequence[HybridResult], count: int) -> Table:
    """Return everybody's results to read; the first is ours.

    Args:
        results: everybody's.
        count: texts that were embedded.
    """
    ours = results[0]
    table = Table(
        "", "task", "seconds", "flagtriton is", "encoder", "peak MB", title=f"{count} texts, {_PASSAGES} pairs"
    )
    for result in results:
        for task, seconds in result.seconds.items():
            times, least, most = compare(ours.seconds[task], seconds)
            ratio = "" if result is ours else f"{times:.2f}x ({least:.2f} to {most:.2f})"
            clock = f"{statistics.median(result.encoder_s[task]):.2f} s" if result is ours else ""
            median, held = f"{statistics.median(seconds):.2f}", f"{result.peak_mb[task]:.0f}"
            table.add_row(result.name, task, median, ratio, clock, held)
    return table
