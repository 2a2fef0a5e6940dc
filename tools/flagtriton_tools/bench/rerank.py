# SPDX-License-Identifier: Apache-2.0
"""`flagtriton bench --rerank`: compares a reranker with FlagEmbedding's on one query and its passages."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from flagtriton import FlagAutoReranker
from flagtriton_server.layerwise.spec import LayerwiseSpec
from flagtriton_tools.bench.peers.callers import seconds_of
from flagtriton_tools.bench.peers.deployment_under_test import Place
from flagtriton_tools.bench.tasks import TaskResult

__all__ = ["QUERY", "OursReranker", "shares_of_full_time"]

QUERY = "what is a vector database"
_ALL_PASSAGES = "one query"
_RATIO = 4


class OursReranker:
    """A deployment with its tasks, called through the SDK.

    A layerwise reranker has two more tasks: stop after a third of its layers, and merge tokens from there on.

    Args:
        place: address of the deployment.
        passages: candidates of the query.
        spec: specification of a layerwise reranker; None for other rerankers.
    """

    def __init__(self, place: Place, passages: Sequence[str], spec: LayerwiseSpec | None = None) -> None:
        self.name = "flagtriton"
        self.place, self.pid = place, place.server_pid
        self._passages = list(passages)
        self._options: dict[str, dict[str, Any]] = {_ALL_PASSAGES: {}}
        if spec is not None:
            third = spec.layers // 3
            self._options[f"layers 1 to {third} of {spec.layers}"] = {"cutoff_layers": third}
            if spec.heads_by_place:
                chosen = {"compress_ratio": _RATIO, "compress_layers": [third]}
                self._options[f"{_RATIO} tokens to 1 from layer {third}"] = chosen
        self.tasks: tuple[str, ...] = (_ALL_PASSAGES,)
        self.own_tasks = tuple(task for task in self._options if task != _ALL_PASSAGES)
        self._model: Any = FlagAutoReranker.from_finetuned(place.model, url=place.url, show_progress=False)
        for options in self._options.values():
            self._model.rerank(QUERY, self._passages, **options)

    def run(self, task: str) -> float:
        """Run one of the tasks; return its duration in seconds."""
        return seconds_of(lambda options: self._model.rerank(QUERY, self._passages, **options), self._options[task])


def shares_of_full_time(ours: TaskResult) -> list[str]:
    """Return, for each task of a layerwise reranker alone, its share of the time of all layers."""
    full = ours.seconds[_ALL_PASSAGES]
    lines = []
    for task, seconds in ours.seconds.items():
        if task != _ALL_PASSAGES:
            shares = [part / whole for part, whole in zip(seconds, full, strict=True)]
            spread = f"{min(shares):.2f} to {max(shares):.2f}"
            lines.append(f"{task}: {statistics.median(shares):.2f} of the time of all layers ({spread})")
    return lines
