# SPDX-License-Identifier: Apache-2.0
"""`FlagLLMModel`: decoder-only embedders, whose vector is the last token's."""

from __future__ import annotations

from typing import Any, ClassVar

from flagtriton.embedders.base import AbsEmbedder
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton.types import DeviceSpec, EmbedderModelClass, PoolingMethod

__all__ = ["FlagLLMModel"]


class FlagLLMModel(AbsEmbedder):
    """A decoder-only embedder (E5-Mistral, bge-multilingual-gemma2, gte-Qwen2, Qwen3-Embedding, SFR, Linq, …).

    `AbsEmbedder` describes the other arguments. The vector is that of a text's last token.

    Args:
        trust_remote_code: compared with the deployment's.
        cache_dir: no effect, as the server loads the weights.

    Raises:
        ValueError: `pooling_method` is another than `last_token`.
    """

    DEFAULT_POOLING_METHOD: ClassVar[str] = PoolingMethod.LAST_TOKEN.value
    MODEL_CLASSES: ClassVar[tuple[str, ...]] = (EmbedderModelClass.DECODER_ONLY_BASE.value,)

    def __init__(
        self,
        model_name_or_path: str,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "Instruct: {}\nQuery: {}",
        devices: DeviceSpec = None,
        trust_remote_code: bool | None = False,
        cache_dir: str | None = None,
        batch_size: int = 256,
        query_max_length: int = DEFAULT_MAX_LENGTH,
        passage_max_length: int = DEFAULT_MAX_LENGTH,
        convert_to_numpy: bool = True,
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.pooling_method = kwargs.pop("pooling_method", self.DEFAULT_POOLING_METHOD)
        if self.pooling_method != self.DEFAULT_POOLING_METHOD:
            raise ValueError("Pooling method must be 'last_token' for LLM-based models.")
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
            convert_to_numpy=convert_to_numpy,
            truncate_dim=truncate_dim,
            pooling_method=self.pooling_method,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            **kwargs,
        )
