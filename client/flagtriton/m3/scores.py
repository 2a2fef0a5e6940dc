# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's scores: of pairs, computed by the server, and of outputs that are here already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton.embedders.base import AbsEmbedder
from flagtriton.m3.collect import CollectedScores
from flagtriton.m3.output import (
    M3Output,
    colbert_score,
    combined_score,
    lexical_matching_score,
    lexical_matching_scores,
)
from flagtriton.protocol.deployment import score_model_name
from flagtriton.protocol.options.score import ScoreOptions, check_weights
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH, PASSAGE, QUERY, SCORES
from flagtriton.remote.encode_call import progress_wish
from flagtriton.remote.inputs import as_pair_list
from flagtriton.remote.model import ServedModel
from flagtriton.rerankers.ranking import ranked
from flagtriton.types import ColBERTVectors, SparseWeights

__all__ = ["M3Scorer"]


class M3Scorer(AbsEmbedder):
    """The scoring half of `BGEM3FlagModel`."""

    def compute_score(
        self,
        sentence_pairs: Iterable[Sequence[str]] | Sequence[str] | M3Output,
        batch_size: int | M3Output | None = None,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> Any:  # noqa: ANN401 - see below
        """Return the scores of pairs, computed on the server, or one score of two outputs, computed here.

        Each pair is scored by itself. No instruction is applied and `truncate_dim` is ignored, as in FlagEmbedding.

        Args:
            sentence_pairs: pairs of query and passage, or one pair; or the output of one query, and then the output of
                one passage as the second argument.
            batch_size: pairs of one request, at most.
            max_query_length: tokens of a query, special tokens included; None is `query_max_length`.
            max_passage_length: likewise, of a passage; None is `passage_max_length`.
            weights_for_different_modes: of the dense, the sparse and the ColBERT score; `weights=` says the same.
            **kwargs: `weights=` and `show_progress=`.

        Returns:
            For a list of pairs a dict from `colbert`, `sparse`, `dense`, `sparse+dense` and `colbert+sparse+dense` to a
            list of floats; for one pair to a float. `[]` for no pairs. For two outputs a float: the weighted mean of
            the scores that both have.

        Raises:
            TypeError: a pair is not two `str`.
            ValueError: weights that are not three numbers of at least 0, one of them more.
        """
        given = kwargs.pop("weights", None)
        weights = weights_for_different_modes if given is None else given
        if isinstance(sentence_pairs, M3Output) or isinstance(batch_size, M3Output):
            further = [max_query_length, max_passage_length, *kwargs.values()]
            return _score_of_outputs(sentence_pairs, batch_size, weights, further)
        show_progress = progress_wish(kwargs)
        pairs, single = as_pair_list(sentence_pairs, "sentence_pairs")
        options = ScoreOptions(
            query_max_length=self._length(max_query_length, self.query_max_length),
            passage_max_length=self._length(max_passage_length, self.passage_max_length),
            weights=check_weights((1.0, 1.0, 1.0) if weights is None else weights),
            normalize=self.normalize_embeddings,
        )
        max_rows = self._rows(batch_size)
        if not pairs:
            return []
        scores = self._scores(pairs, options, max_rows, show_progress)
        return {name: values[0] for name, values in scores.items()} if single else scores

    def rerank(
        self, query: str, passages: Iterable[str], top_k: int | None = None, **kwargs: Any
    ) -> list[tuple[int, float, str]]:
        """Return the passages best for a query, the best first, each as (index, score, text).

        The query is encoded once a request, and only scores come back.

        Args:
            query: one text.
            passages: the candidates.
            top_k: how many to return; None returns all.
            **kwargs: as for `compute_score`; the score is `colbert+sparse+dense`.
        """

        def combined(pairs: list[tuple[str, str]]) -> list[float]:
            scores = self.compute_score(pairs, **kwargs)
            return scores["colbert+sparse+dense"] if pairs else []

        return ranked(query, passages, top_k, combined)

    def compute_score_single_device(
        self,
        sentence_pairs: Iterable[Sequence[str]] | Sequence[str],
        batch_size: int = 256,
        max_query_length: int = DEFAULT_MAX_LENGTH,
        max_passage_length: int = DEFAULT_MAX_LENGTH,
        weights_for_different_modes: Sequence[float] | None = None,
        device: str | None = None,
        **kwargs: Any,
    ) -> Any:  # noqa: ANN401 - what `compute_score` returns
        """Return what `compute_score` returns; `device` is the server's business and ignored."""
        lengths = (self._length(None, max_query_length), self._length(None, max_passage_length))
        return self.compute_score(sentence_pairs, batch_size, *lengths, weights_for_different_modes, **kwargs)

    def compute_score_multi_process(
        self, sentence_pairs: Iterable[Sequence[str]] | Sequence[str], pool: object = None, **kwargs: Any
    ) -> Any:  # noqa: ANN401 - what `compute_score` returns
        """Return what `compute_score` returns."""
        return self.compute_score(sentence_pairs, **kwargs)

    @staticmethod
    def compute_lexical_matching_score(
        lexical_weights_1: SparseWeights | list[SparseWeights], lexical_weights_2: SparseWeights | list[SparseWeights]
    ) -> float | NDArray[np.float64]:
        """Return the lexical score of two texts, or `[B1, B2]` scores of every text of two lists.

        Raises:
            ValueError: one text and one list.
        """
        if isinstance(lexical_weights_1, Mapping) and isinstance(lexical_weights_2, Mapping):
            return lexical_matching_score(lexical_weights_1, lexical_weights_2)
        if isinstance(lexical_weights_1, list) and isinstance(lexical_weights_2, list):
            scores = lexical_matching_scores(lexical_weights_1, lexical_weights_2)
            return scores if lexical_weights_1 else scores.reshape(0)  # NumPy's shape of an empty list
        raise ValueError("The input format of lexical_weights is not correct.")

    @staticmethod
    def colbert_score(q_reps: ColBERTVectors, p_reps: ColBERTVectors) -> np.float32:
        """Return the late-interaction score of a query's and a passage's ColBERT vectors."""
        return colbert_score(q_reps, p_reps)

    @cached_property
    def _scorer(self) -> ServedModel:
        return self.served.companion(score_model_name(self.served.name))

    def _scores(
        self, pairs: list[tuple[str, str]], options: ScoreOptions, max_rows: int, show_progress: bool | None
    ) -> dict[str, list[float]]:
        queries, passages = [query for query, _ in pairs], [passage for _, passage in pairs]
        collected = CollectedScores(len(pairs))
        self._scorer.collect(
            collected.add,
            self._scorer.plan_pairs(queries, passages, max_rows=max_rows),
            {QUERY: queries, PASSAGE: passages},
            list(SCORES.values()),
            options,
            unit="pair",
            show_progress=show_progress,
        )
        return collected.lists()


def _score_of_outputs(
    query: object, passage: object, weights: Sequence[float] | None, further: Sequence[object]
) -> float:
    if not isinstance(query, M3Output) or not isinstance(passage, M3Output):
        raise TypeError(
            f"the arguments are {type(query).__name__} and {type(passage).__name__}; pass two M3Output, or pairs of str"
        )
    if any(argument is not None for argument in further):
        raise TypeError("two outputs are scored as they are: beside them there is weights= alone")
    return combined_score(query, passage, weights)
