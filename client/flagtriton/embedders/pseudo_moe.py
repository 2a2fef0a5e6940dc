# SPDX-License-Identifier: Apache-2.0
"""`FlagPseudoMoEModel`: an embedder with one expert per domain (geevec-embeddings)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from flagtriton.embedders.base import EncodeCall
from flagtriton.embedders.decoder import FlagLLMModel
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton.types import DeviceSpec, EmbedderModelClass

__all__ = ["FlagPseudoMoEModel"]


class FlagPseudoMoEModel(FlagLLMModel):
    """A decoder-only embedder with domains (geevec-embeddings); `AbsEmbedder` describes the other arguments.

    Before normalisation the server replaces nan by 0 and infinities by ±10,000.

    Args:
        domain_for_pseudo_moe: domain of the model, such as `general`, `coding` or `reasoning`. None leaves the choice
            to the model; a model without domains ignores it. Every method takes it as `domain_for_pseudo_moe=` or
            `domain=`, too.
    """

    MODEL_CLASSES: ClassVar[tuple[str, ...]] = (EmbedderModelClass.DECODER_ONLY_PSEUDO_MOE.value,)
    BF16_BY_DEFAULT: ClassVar[bool] = True

    def __init__(
        self,
        model_name_or_path: str,
        normalize_embeddings: bool = True,
        use_fp16: bool = False,
        use_bf16: bool = True,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "Instruct: {}\nQuery: {}",
        devices: DeviceSpec = None,
        trust_remote_code: bool | None = True,
        cache_dir: str | None = None,
        batch_size: int = 256,
        query_max_length: int = DEFAULT_MAX_LENGTH,
        passage_max_length: int = DEFAULT_MAX_LENGTH,
        convert_to_numpy: bool = True,
        truncate_dim: int | None = None,
        domain_for_pseudo_moe: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.domain_for_pseudo_moe = domain_for_pseudo_moe
        super().__init__(
            model_name_or_path,
            normalize_embeddings=normalize_embeddings,
            use_fp16=use_fp16,
            use_bf16=use_bf16,
            query_instruction_for_retrieval=query_instruction_for_retrieval,
            query_instruction_format=query_instruction_format,
            devices=devices,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            batch_size=batch_size,
            query_max_length=query_max_length,
            passage_max_length=passage_max_length,
            convert_to_numpy=convert_to_numpy,
            truncate_dim=truncate_dim,
            **kwargs,
        )

    def _call(
        self,
        sentences: str | Iterable[str],
        argument: str,
        options: EmbedOptions,
        instruct: tuple[str, str | None],
        batch_size: int | None,
        extra: dict[str, Any],
    ) -> EncodeCall:
        domain = extra.pop("domain_for_pseudo_moe", None)
        if domain is None:
            domain = extra.pop("domain", None)
        options = replace(options, domain=self.domain_for_pseudo_moe if domain is None else domain)
        return super()._call(sentences, argument, options, instruct, batch_size, extra)
