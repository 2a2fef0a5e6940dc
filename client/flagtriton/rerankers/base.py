# SPDX-License-Identifier: Apache-2.0
"""`AbsReranker`: the constructor and methods that FlagEmbedding's rerankers share, answered by a server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, TypeAlias, cast

from flagtriton.protocol.instructions import apply_instruction, check_instruction_format
from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH, PASSAGE, QUERY, SCORE
from flagtriton.remote.base import ServedObject
from flagtriton.remote.compatibility import refuse_mismatch, warn_of_differences
from flagtriton.remote.inputs import as_pair_list, pop_show_progress
from flagtriton.remote.planning import RowCollector
from flagtriton.remote.ranking import rank_passages
from flagtriton.types import DeviceSpec

__all__ = ["AbsReranker", "Pairs", "Scores"]

Pairs: TypeAlias = Iterable[Sequence[str]] | Sequence[str]
"""Pairs of query and passage (tuples, lists, a two-column array), or one pair."""

Scores: TypeAlias = list[float] | list[list[float]]
"""One score per pair, in the order of the pairs; with several layers, one such list per layer."""

_OPTIONS = ("query_max_length", "max_length", "normalize")
_BYTES_PER_REQUEST = 4_194_304
"""Larger than an embedder's, as replies are small: the limit bounds the requests' own memory."""


class AbsReranker(ServedObject):
    """A reranker with FlagEmbedding's API, served by Triton. Every call reads the attributes again.

    Args:
        model_name_or_path: a deployment's name, or the checkpoint it was made from, whose last path part counts.
        use_fp16: permits half precision; the deployment decides.
        query_instruction_for_rerank: put before queries.
        query_instruction_format: format with two fields, instruction and text.
        passage_instruction_for_rerank: put before passages.
        passage_instruction_format: format with two fields, instruction and text.
        devices: compared with the deployment's.
        batch_size: pairs of one request, at most.
        query_max_length: tokens of a query, at most; None is three quarters of `max_length`.
        max_length: tokens of a pair, special tokens included; the default means 512 or the deployment's maximum,
            whichever is smaller.
        normalize: return the sigmoid of each score.
        **kwargs: the fields of `ConnectionSettings`. Others are kept as attributes, with a warning.

    Raises:
        ModelNotServedError: the server has no such deployment; the message lists those there are.
        DeploymentMismatchError: the deployment has another class, or allows fewer tokens.
        ServerUnavailableError: the server does not reply.
    """

    MODEL_CLASSES: ClassVar[tuple[str, ...]]
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Names of this class' own attributes that are request options; a call may override them."""

    def __init__(
        self,
        model_name_or_path: str,
        use_fp16: bool = False,
        query_instruction_for_rerank: str | None = None,
        query_instruction_format: str = "{}{}",
        passage_instruction_for_rerank: str | None = None,
        passage_instruction_format: str = "{}{}",
        devices: DeviceSpec = None,
        batch_size: int = 128,
        query_max_length: int | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        self.model_name_or_path = model_name_or_path
        self.use_fp16 = use_fp16
        self.query_instruction_for_rerank = query_instruction_for_rerank
        self.query_instruction_format = query_instruction_format
        self.passage_instruction_for_rerank = passage_instruction_for_rerank
        self.passage_instruction_format = passage_instruction_format
        self.batch_size = batch_size
        self.query_max_length = query_max_length
        self.max_length = max_length
        self.normalize = normalize
        self.pool = None
        compare = partial(self._compare_with_deployment, devices)
        self._connect(model_name_or_path, kwargs, compare, ("trust_remote_code", "cache_dir", "use_bf16"))

    def compute_score(self, sentence_pairs: Pairs, **kwargs: Any) -> Scores:
        """Return the scores of pairs.

        Args:
            sentence_pairs: pairs of query and passage, or one pair.
            **kwargs: replacements for attributes: `batch_size=`, `query_max_length=`, `max_length=`, `normalize=` and
                the options of the class; and `show_progress=`.

        Returns:
            One float per pair, in the order of the pairs: a list of one for a single pair, `[]` for no pairs.

        Raises:
            TypeError: a pair is not two `str`, and the message names its index; or an argument is unknown.
            InvalidRequestError: the deployment refused an option, or a query that leaves no tokens for its passage.
        """
        return self._scores(self.get_detailed_inputs(sentence_pairs), kwargs)

    def compute_score_single_gpu(
        self,
        sentence_pairs: Pairs,
        batch_size: int | None = None,
        query_max_length: int | None = None,
        max_length: int | None = None,
        normalize: bool | None = None,
        device: str | None = None,
        **kwargs: Any,
    ) -> Scores:
        """Return the scores of pairs without instructions; `device` has no effect."""
        pairs, _ = as_pair_list(sentence_pairs, "sentence_pairs")
        named = {
            "batch_size": batch_size,
            "query_max_length": query_max_length,
            "max_length": max_length,
            "normalize": normalize,
        }
        return self._scores(pairs, {**named, **kwargs})

    def rerank(
        self, query: str, passages: Iterable[str], top_k: int | None = None, **kwargs: Any
    ) -> list[tuple[int, float, str]]:
        """Return the passages with the highest scores, best first, as (index, score, text).

        They travel in one request up to the deployment's `--max-batch-size`, 1,024 by default, and 4 MiB of text.

        Args:
            query: the query.
            passages: the candidates.
            top_k: number of passages to return, at most; None returns all.
            **kwargs: as for `compute_score`.

        Raises:
            ValueError: the query is no `str`, `top_k` is below 0, or scores of several layers are asked for.
        """
        kwargs.setdefault("batch_size", self.served.max_batch_size)

        def score(pairs: list[tuple[str, str]]) -> Sequence[float]:
            scores = self.compute_score(pairs, **kwargs)
            if scores and isinstance(scores[0], list):
                raise ValueError(f"rerank got the scores of {len(scores)} layers; name one in cutoff_layers")
            return cast(list[float], scores)

        return rank_passages(query, passages, top_k, score)

    def get_detailed_inputs(self, sentence_pairs: Pairs) -> list[tuple[str, str]]:
        """Return the pairs behind their instructions."""
        pairs, _ = as_pair_list(sentence_pairs, "sentence_pairs")
        sides = (
            (self.query_instruction_for_rerank, self.query_instruction_format, "query_instruction_format"),
            (self.passage_instruction_for_rerank, self.passage_instruction_format, "passage_instruction_format"),
        )
        for instruction, instruction_format, name in sides:
            if instruction is not None:
                check_instruction_format(instruction_format, name)
        (query_instruction, query_format, _), (passage_instruction, passage_format, _) = sides
        return [
            (
                query if query_instruction is None else apply_instruction(query_format, query_instruction, query),
                passage
                if passage_instruction is None
                else apply_instruction(passage_format, passage_instruction, passage),
            )
            for query, passage in pairs
        ]

    def get_detailed_instruct(self, instruction_format: str, instruction: str, sentence: str) -> str:
        """Return `sentence` behind its instruction."""
        return apply_instruction(instruction_format, instruction, sentence)

    def encode_multi_process(self, sentence_pairs: Pairs, pool: object = None, **kwargs: Any) -> Scores:
        """Return the result of `compute_score`, without instructions."""
        return self.compute_score_single_gpu(sentence_pairs, **kwargs)

    def _scores(self, pairs: list[tuple[str, str]], arguments: dict[str, Any]) -> Scores:
        named = {
            name: getattr(self, name) if value is None else value
            for name in ("batch_size", *_OPTIONS, *self.OPTIONS)
            for value in [arguments.pop(name, None)]
        }
        show_progress = pop_show_progress(arguments)
        batch_size = named.pop("batch_size")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        options = self._options(named)
        if not pairs:
            return []
        queries, passages = [query for query, _ in pairs], [passage for _, passage in pairs]
        scores = self.served.collect(
            RowCollector(len(pairs), SCORE),
            self.served.plan_pairs(queries, passages, max_rows=batch_size, max_bytes=_BYTES_PER_REQUEST),
            {QUERY: queries, PASSAGE: passages},
            [SCORE],
            options,
            unit="pair",
            show_progress=show_progress,
        )
        by_layer: list[list[float]] = scores.T.tolist()
        return by_layer if len(by_layer) > 1 else by_layer[0]

    def _options(self, named: dict[str, Any]) -> RerankOptions:
        """Return the options of a call from the caller's arguments and the attributes."""
        return RerankOptions(**{**named, "max_length": self._length(named["max_length"])})

    def _length(self, max_length: int) -> int:
        """Return `max_length`, or for the default of 512 the deployment's maximum if that is smaller; tokens."""
        return min(max_length, self.served.deployment.max_length) if max_length == DEFAULT_MAX_LENGTH else max_length

    def _compare_with_deployment(
        self, devices: DeviceSpec, *, use_bf16: bool | None, trust_remote_code: bool | None, cache_dir: str | None
    ) -> None:
        deployment, name = self.served.deployment, self.served.name
        lengths = {"max_length": self.max_length}
        refuse_mismatch(
            name,
            deployment,
            task="rerank",
            model_classes=self.MODEL_CLASSES,
            pooling_method=None,
            max_lengths=lengths,
        )
        warn_of_differences(
            name,
            deployment,
            use_fp16=True,  # full precision is the default here, so the caller did not ask for it
            use_bf16=bool(use_bf16),
            devices=devices,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            ignored=list(self.kwargs),
        )
