# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's scores of pairs, computed by the server, and of two outputs, computed here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from flagtriton.m3.collect import ScoreCollector
from flagtriton.m3.output import M3Output, combined_score
from flagtriton.protocol.deployment import score_model_name
from flagtriton.protocol.options.score import ScoreOptions
from flagtriton.protocol.tensors import PASSAGE, QUERY, SCORES
from flagtriton.remote.model import ServedModel

__all__ = ["PairScorer", "score_outputs"]


class PairScorer:
    """Scores of pairs by a deployment's scoring ensemble, which is looked up at the first call.

    Args:
        served: the deployment of BGE-M3.
    """

    def __init__(self, served: ServedModel) -> None:
        self._served = served

    def score(
        self, pairs: Sequence[tuple[str, str]], options: ScoreOptions, *, max_rows: int, show_progress: bool | None
    ) -> dict[str, list[float]]:
        """Return P scores by each of FlagEmbedding's names.

        Args:
            pairs: P pairs of query and passage, at least one.
            options: options of every request.
            max_rows: pairs of one request, at most.
            show_progress: progress bar of this call; None takes the connection's setting.

        Raises:
            ModelNotServedError: the scoring ensemble is not loaded.
        """
        queries, passages = [query for query, _ in pairs], [passage for _, passage in pairs]
        return self._ensemble.collect(
            ScoreCollector(len(pairs)),
            self._ensemble.plan_pairs(queries, passages, max_rows=max_rows),
            {QUERY: queries, PASSAGE: passages},
            list(SCORES.values()),
            options,
            unit="pair",
            show_progress=show_progress,
        )

    @cached_property
    def _ensemble(self) -> ServedModel:
        return self._served.companion(score_model_name(self._served.name))


def score_outputs(
    query: object, passage: object, weights: Sequence[float] | None, extra_arguments: Sequence[object]
) -> float:
    """Return the weighted mean of the scores that two outputs share.

    Args:
        query: output of one query.
        passage: output of one passage.
        weights: weights of the dense, the sparse and the ColBERT score; None weighs them equally.
        extra_arguments: the other arguments of the call, which must be None.

    Raises:
        TypeError: the arguments are not two outputs, or there are others.
        ValueError: as `combined_score`.
    """
    if not isinstance(query, M3Output) or not isinstance(passage, M3Output):
        raise TypeError(
            f"the arguments are {type(query).__name__} and {type(passage).__name__}; pass two M3Output, or pairs of str"
        )
    if any(argument is not None for argument in extra_arguments):
        raise TypeError("two outputs are scored as they are: beside them there is weights= alone")
    return combined_score(query, passage, weights)
