# SPDX-License-Identifier: Apache-2.0
"""`FlagReranker`: cross-encoders (bge-reranker-base, -large, -v2-m3)."""

from __future__ import annotations

from typing import Any, ClassVar

from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton.rerankers.base import AbsReranker
from flagtriton.types import DeviceSpec, RerankerModelClass

__all__ = ["FlagReranker"]


class FlagReranker(AbsReranker):
    """An encoder-only reranker (bge-reranker-base, -large, -v2-m3); `AbsReranker` describes the arguments.

    Args:
        trust_remote_code: compared with the deployment's.
        cache_dir: no effect, as the server loads the weights.
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
