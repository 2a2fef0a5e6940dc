# SPDX-License-Identifier: Apache-2.0
"""The reranker classes, each with FlagEmbedding's constructor, and the factory that chooses one."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from flagtriton.abs_reranker import AbsReranker
from flagtriton.checkpoints import RERANKERS, checkpoint_name
from flagtriton.checks import served_class
from flagtriton.connection import ConnectionSettings
from flagtriton.layered_rerankers import LayerWiseFlagLLMReranker, LightWeightFlagLLMReranker
from flagtriton.llm_rerankers import FlagLLMReranker
from flagtriton.protocol import DEFAULT_MAX_LENGTH
from flagtriton.served import ServedModel
from flagtriton.types import DeviceSpec, RerankerModelClass

__all__ = ["FlagAutoReranker", "FlagReranker"]


class FlagReranker(AbsReranker):
    """An encoder-only reranker (bge-reranker-base, -large, -v2-m3); `AbsReranker` describes the arguments.

    Args:
        trust_remote_code: compared with the deployment's.
        cache_dir: has no effect: the server loads the weights.
    """

    MODEL_CLASSES: ClassVar[tuple[str, ...]] = (RerankerModelClass.ENCODER_ONLY_BASE.value,)

    def __init__(
        self,
        model_name_or_path: str,
        use_fp16: bool = False,
        query_instruction_for_rerank: str | None = None,
        query_instruction_format: str = "{}{}",
        passage_instruction_for_rerank: str | None = None,
        passage_instruction_format: str = "{}{}",
        trust_remote_code: bool | None = False,
        cache_dir: str | None = None,
        devices: DeviceSpec = None,
        batch_size: int = 128,
        query_max_length: int | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model_name_or_path,
            use_fp16=use_fp16,
            query_instruction_for_rerank=query_instruction_for_rerank,
            query_instruction_format=query_instruction_format,
            passage_instruction_for_rerank=passage_instruction_for_rerank,
            passage_instruction_format=passage_instruction_format,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            devices=devices,
            batch_size=batch_size,
            query_max_length=query_max_length,
            max_length=max_length,
            normalize=normalize,
            **kwargs,
        )


_CLASSES: Final[dict[RerankerModelClass, type[AbsReranker]]] = {
    RerankerModelClass.ENCODER_ONLY_BASE: FlagReranker,
    RerankerModelClass.DECODER_ONLY_BASE: FlagLLMReranker,
    RerankerModelClass.DECODER_ONLY_LAYERWISE: LayerWiseFlagLLMReranker,
    RerankerModelClass.DECODER_ONLY_LIGHTWEIGHT: LightWeightFlagLLMReranker,
}


class FlagAutoReranker:
    """Not to be instantiated: call `from_finetuned`."""

    def __init__(self) -> None:
        raise OSError(
            "FlagAutoReranker is designed to be instantiated using the "
            "`FlagAutoReranker.from_finetuned(model_name_or_path)` method."
        )

    @classmethod
    def from_finetuned(
        cls,
        model_name_or_path: str,
        model_class: str | RerankerModelClass | None = None,
        use_fp16: bool = False,
        trust_remote_code: bool | None = None,
        **kwargs: Any,
    ) -> AbsReranker:
        """Return the reranker that talks to the deployment of `model_name_or_path`.

        Args:
            model_name_or_path: a deployment's name, or the checkpoint it was made from.
            model_class: one of `RerankerModelClass`; None takes the model table's, or for a name it lacks, what the
                server says.
            use_fp16: permits half precision.
            trust_remote_code: None takes what is served.
            **kwargs: further arguments of the class, and the fields of `ConnectionSettings`, `url` first.

        Raises:
            ValueError: `model_class` is no class of FlagEmbedding's.
            FlagTritonError: as `AbsReranker`.
        """
        known = RERANKERS.get(checkpoint_name(model_name_or_path))
        if model_class is not None:
            chosen = RerankerModelClass(model_class)
        elif known is not None:
            chosen = known.model_class
        else:
            served = ServedModel.find(checkpoint_name(model_name_or_path), ConnectionSettings.taken_from(dict(kwargs)))
            kwargs["transport"] = served.transport
            chosen = served_class(served, "rerank", RerankerModelClass)
        return _CLASSES[chosen](model_name_or_path, use_fp16=use_fp16, trust_remote_code=trust_remote_code, **kwargs)
