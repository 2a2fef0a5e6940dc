# SPDX-License-Identifier: Apache-2.0
"""`flagtriton bench --hybrid`: compares BGE-M3's three outputs and its pair scores with FlagEmbedding's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flagtriton import BGEM3FlagModel
from flagtriton_tools.bench.peers.callers import seconds_of
from flagtriton_tools.bench.peers.deployment_under_test import Place

__all__ = ["PASSAGES", "OursHybrid", "scored_pairs"]

ALL: dict[str, Any] = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
TASKS = ("three outputs", "one query")
OWN_TASKS = ("dense", "one long query", "distinct queries")
"""Tasks of flagtriton alone. `dense` shows the cost of the two other outputs. The other two show the saving
from encoding a repeated query once: all pairs share one query as long as a passage, or each pair has another one."""

_QUERY = "what is a vector database"
PASSAGES = 200


def scored_pairs(texts: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of every scoring task: 200 passages, each with its query."""
    passages = [texts[i % len(texts)] for i in range(PASSAGES)]
    long = texts[-1].split()
    return {
        "one query": [(_QUERY, passage) for passage in passages],
        "one long query": [(" ".join(long), passage) for passage in passages],
        # Rotated by another word each and with a number in front, these are 200 texts of nearly the same tokens.
        "distinct queries": [
            (" ".join([f"{i}", *long[i % len(long) :], *long[: i % len(long)]]), passage)
            for i, passage in enumerate(passages)
        ],
    }


class OursHybrid:
    """A deployment with its tasks, called through the SDK.

    Args:
        place: address of the deployment.
        texts: texts to embed.
    """

    def __init__(self, place: Place, texts: Sequence[str]) -> None:
        self.name = "flagtriton"
        self.place, self.pid = place, place.server_pid
        self.tasks: tuple[str, ...] = TASKS
        self.own_tasks: tuple[str, ...] = OWN_TASKS
        self._texts = list(texts)
        self._pairs = scored_pairs(texts)
        self._model = BGEM3FlagModel(place.model, url=place.url, pooling_method=None, show_progress=False)
        self._model.encode(self._texts[:64], **ALL)
        self._model.compute_score(self._pairs["one query"][:8])

    def run(self, task: str) -> float:
        """Run one of `TASKS` or `OWN_TASKS`; return its duration in seconds."""
        if task in self._pairs:
            return seconds_of(self._model.compute_score, self._pairs[task])
        chosen: dict[str, Any] = ALL if task == "three outputs" else {}
        return seconds_of(lambda texts: self._model.encode(texts, **chosen), self._texts)
