# SPDX-License-Identifier: Apache-2.0
"""`flagtriton bench --rerank`: one query and its passages through a reranker, beside FlagEmbedding's."""

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
    """A deployment of ours with its tasks, behind the SDK.

    A layerwise one has tasks of its own: to stop after a third of its layers, and to merge tokens from there on.

    Args:
        place: where it is served.
        passages: the query's candidates.
        spec: of a layerwise reranker; None is another.
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
        """Do one of the tasks; return how many seconds it took."""
        return seconds_of(lambda options: self._model.rerank(QUERY, self._passages, **options), self._options[task])


def shares_of_full_time(ours: TaskResult) -> list[str]:
    """Return, for each of a layerwise reranker's own tasks, which share of the whole network's time it takes."""
    full = ours.seconds[_ALL_PASSAGES]
    lines = []
    for task, seconds in ours.seconds.items():
        if task != _ALL_PASSAGES:
            shares = [part / whole for part, whole in zip(seconds, full, strict=True)]
            spread = f"{min(shares):.2f} to {max(shares):.2f}"
            lines.append(f"{task}: {statistics.median(shares):.2f} of the time of all layers ({spread})")
    return lines
