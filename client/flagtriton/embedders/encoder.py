# SPDX-License-Identifier: Apache-2.0
"""`FlagModel`: encoder-only embedders, whose vector is the first token's or the mean."""

from __future__ import annotations

from typing import Any, ClassVar

from flagtriton.embedders.base import AbsEmbedder
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton.types import DeviceSpec, EmbedderModelClass, PoolingMethod

__all__ = ["FlagModel"]


class FlagModel(AbsEmbedder):
    """An encoder-only embedder (BGE v1 and v1.5, E5, GTE, …); `AbsEmbedder` describes the arguments.

    Args:
        pooling_method: the deployment's pooling method, `cls` by default as in FlagEmbedding; None takes the
            deployment's.
        trust_remote_code: compared with the deployment's.
        cache_dir: no effect, as the server loads the weights.

    Raises:
        DeploymentMismatchError: the deployment has another pooling method; and as `AbsEmbedder`.
    """

    DEFAULT_POOLING_METHOD: ClassVar[str] = PoolingMethod.CLS.value
    MODEL_CLASSES: ClassVar[tuple[str, ...]] = (EmbedderModelClass.ENCODER_ONLY_BASE.value,)

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
        batch_size: int = 256,
        query_max_length: int = DEFAULT_MAX_LENGTH,
        passage_max_length: int = DEFAULT_MAX_LENGTH,
        convert_to_numpy: bool = True,
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
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
            pooling_method=pooling_method,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            **kwargs,
        )
        self.pooling_method = pooling_method or self.served.deployment.pooling_method
