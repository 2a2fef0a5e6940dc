# SPDX-License-Identifier: Apache-2.0
"""`BGEM3FlagModel`: dense, sparse and ColBERT outputs from one request, and hybrid scores of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flagtriton.embedders.base import AbsEmbedder, EncodeCall
from flagtriton.errors import DeploymentMismatchError
from flagtriton.m3.encode import encode_outputs
from flagtriton.m3.output import M3Output, colbert_score, lexical_scores
from flagtriton.m3.scores import PairScorer, score_outputs
from flagtriton.m3.tokens import TokenTexts
from flagtriton.protocol.options.score import ScoreOptions, check_weights
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton.remote.inputs import as_pair_list, pop_show_progress
from flagtriton.remote.ranking import rank_passages
from flagtriton.types import ColBERTVectors, DeviceSpec, EmbedderModelClass, PoolingMethod, SparseWeights

__all__ = ["BGEM3FlagModel"]


class BGEM3FlagModel(AbsEmbedder):
    """BGE-M3; `AbsEmbedder` describes the other arguments.

    Args:
        pooling_method: the deployment's pooling method for dense vectors; None takes the deployment's.
        trust_remote_code: compared with the deployment's.
        cache_dir: no effect, as the server loads the weights.
        colbert_dim: the deployment's components of a ColBERT vector; a number below 1 takes the deployment's.
        return_dense: whether the methods return dense vectors by default.
        return_sparse: whether they return lexical weights by default.
        return_colbert_vecs: whether they return ColBERT vectors by default.

    Raises:
        DeploymentMismatchError: the deployment has another pooling method or `colbert_dim`; and as `AbsEmbedder`.
    """

    DEFAULT_POOLING_METHOD: ClassVar[str] = PoolingMethod.CLS.value
    MODEL_CLASSES: ClassVar[tuple[str, ...]] = (EmbedderModelClass.ENCODER_ONLY_M3.value,)

    def __init__(
        self,
        model_name_or_path: str,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "{}{}",
        devices: DeviceSpec = None,
        pooling_method: str | None = "cls",
        trust_remote_code: bool | None = False,
        cache_dir: str | None = None,
        colbert_dim: int = -1,
        batch_size: int = 256,
        query_max_length: int = DEFAULT_MAX_LENGTH,
        passage_max_length: int = DEFAULT_MAX_LENGTH,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("convert_to_numpy", None)  # FlagEmbedding accepts it and returns arrays
        super().__init__(
            model_name_or_path,
            normalize_embeddings=normalize_embeddings,
            use_fp16=use_fp16,
            use_bf16=use_bf16,
            query_instruction_for_retrieval=query_instruction_for_retrieval,
            query_instruction_format=query_instruction_format,
            devices=devices,
            batch_size=batch_size,
            query_max_length=query_max_length,
            passage_max_length=passage_max_length,
            truncate_dim=truncate_dim,
            pooling_method=pooling_method,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            **kwargs,
        )
        self.pooling_method = pooling_method or self.served.deployment.pooling_method
        self.colbert_dim = colbert_dim
        self.return_dense = return_dense
        self.return_sparse = return_sparse
        self.return_colbert_vecs = return_colbert_vecs
        self._token_texts = TokenTexts(self.served)
        self._scorer = PairScorer(self.served)
        served_dim = self.served.deployment.colbert_dim
        if colbert_dim > 0 and served_dim is not None and colbert_dim != served_dim:
            self.close()
            raise DeploymentMismatchError(
                f"colbert_dim={colbert_dim}, but {self.served.name} is served with {served_dim}: pass that, or -1"
            )

    def encode(  # type: ignore[override]
        self,
        sentences: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        instruction: str | None = None,
        instruction_format: str | None = None,
        **kwargs: Any,
    ) -> M3Output:
        """Return the chosen outputs of texts, without the deployment's instructions.

        Args:
            sentences: one text, or several.
            batch_size: texts of one request, at most.
            max_length: tokens of a text, special tokens included; None is `passage_max_length`.
            return_dense: return dense vectors; None is the object's `return_dense`.
            return_sparse: return lexical weights; None is the object's `return_sparse`.
            return_colbert_vecs: return ColBERT vectors; None is the object's `return_colbert_vecs`.
            instruction: put before every text.
            instruction_format: format with two fields, instruction and text; None is `"{}{}"`.
            **kwargs: `show_progress=`.

        Raises:
            ValueError: no output is chosen.
            TypeError, InvalidRequestError: as `AbsEmbedder.encode`.
        """
        kwargs.pop("convert_to_numpy", None)
        call = self._text_call(sentences, batch_size, max_length, instruction, instruction_format, kwargs)
        return self._outputs(call, return_dense, return_sparse, return_colbert_vecs)

    def encode_queries(  # type: ignore[override]
        self,
        queries: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        **kwargs: Any,
    ) -> M3Output:
        """Return the chosen outputs of queries behind `query_instruction_for_retrieval`; see `encode`."""
        kwargs.pop("convert_to_numpy", None)
        call = self._query_call(queries, batch_size, max_length, kwargs)
        return self._outputs(call, return_dense, return_sparse, return_colbert_vecs)

    def encode_corpus(  # type: ignore[override]
        self,
        corpus: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        **kwargs: Any,
    ) -> M3Output:
        """Return the chosen outputs of passages behind `passage_instruction_for_retrieval`; see `encode`."""
        kwargs.pop("convert_to_numpy", None)
        call = self._corpus_call(corpus, batch_size, max_length, kwargs)
        return self._outputs(call, return_dense, return_sparse, return_colbert_vecs)

    def encode_single_device(  # type: ignore[override]
        self,
        sentences: str | Iterable[str],
        batch_size: int = 256,
        max_length: int = DEFAULT_MAX_LENGTH,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        device: str | None = None,
        **kwargs: Any,
    ) -> M3Output:
        """Return the result of `encode`; `device` has no effect."""
        length = self._length(None, max_length)
        return self.encode(sentences, batch_size, length, return_dense, return_sparse, return_colbert_vecs, **kwargs)

    def convert_id_to_token(
        self, lexical_weights: SparseWeights | list[SparseWeights]
    ) -> dict[str, float] | list[dict[str, float]]:
        """Return the weights by token text instead of token id, from the deployment's tokenizer.

        Returns:
            A dict for one text and, as in FlagEmbedding, for a list of one; else a list of dicts.
        """
        batch = [lexical_weights] if isinstance(lexical_weights, Mapping) else list(lexical_weights)
        converted = self._token_texts.by_text(batch)
        return converted[0] if len(converted) == 1 else converted

    def compute_score(
        self,
        sentence_pairs: Iterable[Sequence[str]] | Sequence[str] | M3Output,
        batch_size: int | M3Output | None = None,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> Any:  # noqa: ANN401 - see below
        """Return the scores of pairs, computed by the server, or the score of two outputs, computed here.

        Neither instructions nor `truncate_dim` apply, as in FlagEmbedding.

        Args:
            sentence_pairs: pairs of query and passage, or one pair; or the output of one query, followed by the output
                of one passage as the second argument.
            batch_size: pairs of one request, at most.
            max_query_length: tokens of a query, special tokens included; None is `query_max_length`.
            max_passage_length: tokens of a passage, special tokens included; None is `passage_max_length`.
            weights_for_different_modes: weights of the dense, the sparse and the ColBERT score, also as `weights=`.
            **kwargs: `weights=` and `show_progress=`.

        Returns:
            For pairs a dict from `colbert`, `sparse`, `dense`, `sparse+dense` and `colbert+sparse+dense` to a list of
            floats; for one pair to a float; for no pairs `[]`. For two outputs the weighted mean of shared scores.

        Raises:
            TypeError: a pair is not two `str`.
            ValueError: the weights are not three numbers of at least 0, one of them more.
        """
        weights = kwargs.pop("weights", None)
        weights = weights_for_different_modes if weights is None else weights
        if isinstance(sentence_pairs, M3Output) or isinstance(batch_size, M3Output):
            others = [max_query_length, max_passage_length, *kwargs.values()]
            return score_outputs(sentence_pairs, batch_size, weights, others)
        show_progress = pop_show_progress(kwargs)
        pairs, single = as_pair_list(sentence_pairs, "sentence_pairs")
        options = ScoreOptions(
            query_max_length=self._length(max_query_length, self.query_max_length),
            passage_max_length=self._length(max_passage_length, self.passage_max_length),
            weights=check_weights((1.0, 1.0, 1.0) if weights is None else weights),
            normalize=self.normalize_embeddings,
        )
        max_rows = self._max_rows(batch_size)
        if not pairs:
            return []
        scores = self._scorer.score(pairs, options, max_rows=max_rows, show_progress=show_progress)
        return {name: values[0] for name, values in scores.items()} if single else scores

    def rerank(
        self, query: str, passages: Iterable[str], top_k: int | None = None, **kwargs: Any
    ) -> list[tuple[int, float, str]]:
        """Return the passages with the highest `colbert+sparse+dense` scores, best first, as (index, score, text).

        Args:
            query: the query; every request encodes it once.
            passages: the candidates.
            top_k: number of passages to return, at most; None returns all.
            **kwargs: as for `compute_score`.
        """

        def score(pairs: list[tuple[str, str]]) -> list[float]:
            scores = self.compute_score(pairs, **kwargs)
            return scores["colbert+sparse+dense"] if pairs else []

        return rank_passages(query, passages, top_k, score)

    def compute_score_single_device(
        self,
        sentence_pairs: Iterable[Sequence[str]] | Sequence[str],
        batch_size: int = 256,
        max_query_length: int = DEFAULT_MAX_LENGTH,
        max_passage_length: int = DEFAULT_MAX_LENGTH,
        weights_for_different_modes: Sequence[float] | None = None,
        device: str | None = None,
        **kwargs: Any,
    ) -> Any:  # noqa: ANN401 - the result of `compute_score`
        """Return the result of `compute_score`; `device` has no effect."""
        lengths = (self._length(None, max_query_length), self._length(None, max_passage_length))
        return self.compute_score(sentence_pairs, batch_size, *lengths, weights_for_different_modes, **kwargs)

    def compute_score_multi_process(
        self, sentence_pairs: Iterable[Sequence[str]] | Sequence[str], pool: object = None, **kwargs: Any
    ) -> Any:  # noqa: ANN401 - the result of `compute_score`
        """Return the result of `compute_score`."""
        return self.compute_score(sentence_pairs, **kwargs)

    @staticmethod
    def compute_lexical_matching_score(
        lexical_weights_1: SparseWeights | list[SparseWeights], lexical_weights_2: SparseWeights | list[SparseWeights]
    ) -> float | NDArray[np.float64]:
        """Return the lexical score of two texts, or `[B1, B2]` scores of every pair of texts from two lists.

        Raises:
            ValueError: one argument is a text and the other a list.
        """
        return lexical_scores(lexical_weights_1, lexical_weights_2)

    @staticmethod
    def colbert_score(q_reps: ColBERTVectors, p_reps: ColBERTVectors) -> np.float32:
        """Return the late-interaction score of a query's and a passage's ColBERT vectors."""
        return colbert_score(q_reps, p_reps)

    def _outputs(self, call: EncodeCall, dense: bool | None, sparse: bool | None, colbert: bool | None) -> M3Output:
        return encode_outputs(
            self.served,
            call,
            dense=self.return_dense if dense is None else bool(dense),
            sparse=self.return_sparse if sparse is None else bool(sparse),
            colbert=self.return_colbert_vecs if colbert is None else bool(colbert),
        )
