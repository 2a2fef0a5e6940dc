# SPDX-License-Identifier: Apache-2.0
"""Layerwise rerankers, which score pairs by several layers of a language model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from operator import index
from typing import Any, ClassVar, SupportsIndex

from flagtriton.protocol.model_classes import PASSAGE_INSTRUCTION, QUERY_INSTRUCTION
from flagtriton.protocol.options.rerank import (
    DEFAULT_COMPRESS_LAYERS,
    RerankOptions,
)
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton.remote.compatibility import frames_to_caller
from flagtriton.rerankers.base import AbsReranker, Pairs, Scores
from flagtriton.rerankers.llm import FlagLLMReranker
from flagtriton.types import DeviceSpec, RerankerModelClass

__all__ = ["LayerWiseFlagLLMReranker", "LightWeightFlagLLMReranker"]


class LayerWiseFlagLLMReranker(FlagLLMReranker):
    """A reranker with a score head on every later layer (bge-reranker-v2-minicpm-layerwise).

    `FlagLLMReranker` describes the other arguments. The forward pass stops at the deepest of `cutoff_layers`. Several
    layers make one list of scores per layer, in ascending order of the layers.

    Args:
        cutoff_layers: layers whose scores to return; None is the last layer. A call may override it.
    """

    MODEL_CLASSES: ClassVar[tuple[str, ...]] = (RerankerModelClass.DECODER_ONLY_LAYERWISE.value,)
    OPTIONS: ClassVar[tuple[str, ...]] = ("prompt", "cutoff_layers")

    def __init__(
        self,
        model_name_or_path: str,
        peft_path: str | None = None,
        use_fp16: bool = False,
        use_bf16: bool = False,
        query_instruction_for_rerank: str | None = QUERY_INSTRUCTION,
        query_instruction_format: str = "{}{}",
        passage_instruction_for_rerank: str | None = PASSAGE_INSTRUCTION,
        passage_instruction_format: str = "{}{}",
        cache_dir: str | None = None,
        trust_remote_code: bool | None = False,
        devices: DeviceSpec = None,
        cutoff_layers: int | list[int] | None = None,
        prompt: str | None = None,
        batch_size: int = 128,
        query_max_length: int | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model_name_or_path,
            peft_path=peft_path,
            use_fp16=use_fp16,
            use_bf16=use_bf16,
            query_instruction_for_rerank=query_instruction_for_rerank,
            query_instruction_format=query_instruction_format,
            passage_instruction_for_rerank=passage_instruction_for_rerank,
            passage_instruction_format=passage_instruction_format,
            cache_dir=cache_dir,
            trust_remote_code=trust_remote_code,
            devices=devices,
            prompt=prompt,
            batch_size=batch_size,
            query_max_length=query_max_length,
            max_length=max_length,
            normalize=normalize,
            **kwargs,
        )
        self.cutoff_layers = cutoff_layers

    def compute_score_single_gpu(  # type: ignore[override]
        self,
        sentence_pairs: Pairs,
        batch_size: int | None = None,
        query_max_length: int | None = None,
        max_length: int | None = None,
        cutoff_layers: int | list[int] | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        use_dataloader: bool = False,
        num_workers: int | None = None,
        device: str | None = None,
        **kwargs: Any,
    ) -> Scores:
        """Return the scores of pairs without instructions; see `FlagLLMReranker`."""
        return AbsReranker.compute_score_single_gpu(
            self,
            sentence_pairs,
            batch_size,
            query_max_length,
            max_length,
            normalize,
            prompt=prompt,
            cutoff_layers=cutoff_layers,
            **kwargs,
        )

    def _options(self, named: dict[str, Any]) -> RerankOptions:
        layers = named["cutoff_layers"]
        return super()._options(
            {**named, "cutoff_layers": None if layers is None else _layers("cutoff_layers", layers)}
        )


class LightWeightFlagLLMReranker(LayerWiseFlagLLMReranker):
    """A layerwise reranker with token compression (bge-reranker-v2.5-gemma2-lightweight).

    `LayerWiseFlagLLMReranker` describes the other arguments. As in FlagEmbedding, the index of a layer in
    `cutoff_layers` selects its head: `cutoff_layers=[28]` is scored by the first head.

    Args:
        compress_layers: layers before which tokens are merged; 0 and layers that do not run have no effect.
        compress_ratio: number of neighbouring passage tokens that are merged into one; 1 merges none. A call may
            override both.
    """

    MODEL_CLASSES: ClassVar[tuple[str, ...]] = (RerankerModelClass.DECODER_ONLY_LIGHTWEIGHT.value,)
    OPTIONS: ClassVar[tuple[str, ...]] = ("prompt", "cutoff_layers", "compress_layers", "compress_ratio")

    def __init__(
        self,
        model_name_or_path: str,
        peft_path: str | None = None,
        use_fp16: bool = False,
        use_bf16: bool = False,
        query_instruction_for_rerank: str | None = QUERY_INSTRUCTION,
        query_instruction_format: str = "{}{}",
        passage_instruction_for_rerank: str | None = PASSAGE_INSTRUCTION,
        passage_instruction_format: str = "{}{}",
        cache_dir: str | None = None,
        trust_remote_code: bool | None = False,
        devices: DeviceSpec = None,
        cutoff_layers: int | list[int] | None = None,
        compress_layers: list[int] = [*DEFAULT_COMPRESS_LAYERS],  # noqa: B006 - FlagEmbedding's, never changed here
        compress_ratio: int = 1,
        prompt: str | None = None,
        batch_size: int = 128,
        query_max_length: int | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model_name_or_path,
            peft_path=peft_path,
            use_fp16=use_fp16,
            use_bf16=use_bf16,
            query_instruction_for_rerank=query_instruction_for_rerank,
            query_instruction_format=query_instruction_format,
            passage_instruction_for_rerank=passage_instruction_for_rerank,
            passage_instruction_format=passage_instruction_format,
            cache_dir=cache_dir,
            trust_remote_code=trust_remote_code,
            devices=devices,
            cutoff_layers=cutoff_layers,
            prompt=prompt,
            batch_size=batch_size,
            query_max_length=query_max_length,
            max_length=max_length,
            normalize=normalize,
            **kwargs,
        )
        self.compress_layers, self.compress_ratio = compress_layers, compress_ratio

    def compute_score_single_gpu(  # type: ignore[override]
        self,
        sentence_pairs: Pairs,
        batch_size: int | None = None,
        query_max_length: int | None = None,
        max_length: int | None = None,
        cutoff_layers: int | list[int] | None = None,
        compress_layer: list[int] | None = None,
        compress_layers: list[int] | None = None,
        compress_ratio: int | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        device: str | None = None,
        **kwargs: Any,
    ) -> Scores:
        """Return the scores of pairs without instructions; see `FlagLLMReranker`.

        `compress_layer` is the older name of `compress_layers`, and replaces it.
        """
        return AbsReranker.compute_score_single_gpu(
            self,
            sentence_pairs,
            batch_size,
            query_max_length,
            max_length,
            normalize,
            prompt=prompt,
            cutoff_layers=cutoff_layers,
            compress_layer=compress_layer,
            compress_layers=compress_layers,
            compress_ratio=compress_ratio,
            **kwargs,
        )

    def _scores(self, pairs: list[tuple[str, str]], arguments: dict[str, Any]) -> Scores:
        compress_layer = arguments.pop("compress_layer", None)
        if compress_layer is not None:
            warnings.warn(
                "compress_layer is called compress_layers now", DeprecationWarning, stacklevel=frames_to_caller()
            )
            arguments["compress_layers"] = compress_layer
        return super()._scores(pairs, arguments)

    def _options(self, named: dict[str, Any]) -> RerankOptions:
        compress_layers, ratio = named["compress_layers"], named["compress_ratio"]
        layers = () if compress_layers is None else _layers("compress_layers", compress_layers, min_count=0)
        if ratio is None or not layers:  # nothing is merged
            layers, ratio = DEFAULT_COMPRESS_LAYERS, 1
        return super()._options({**named, "compress_layers": layers, "compress_ratio": ratio})


def _layers(argument: str, layers: SupportsIndex | Iterable[SupportsIndex], *, min_count: int = 1) -> tuple[int, ...]:
    """Return layer numbers as a tuple of `int`.

    Args:
        argument: name of the caller's argument, for the message.
        layers: layer numbers, or one.
        min_count: number of layers, at least.

    Raises:
        ValueError: there are fewer layers, or one is no whole number of at least 0.
    """
    refusal = ValueError(
        f"{argument} is {layers!r}, expected whole numbers of at least 0, one at least, such as [8, 16]"
    )
    try:
        elements = list(layers) if isinstance(layers, Iterable) else [layers]
        numbers = tuple(index(layer) for layer in elements)
    except TypeError as error:
        raise refusal from error
    is_boolean = any(isinstance(element, bool) for element in elements)
    if is_boolean or len(numbers) < min_count or any(number < 0 for number in numbers):
        raise refusal
    return numbers
