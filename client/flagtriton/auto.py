# SPDX-License-Identifier: Apache-2.0
"""The factory that finds the class for a model name."""

from __future__ import annotations

from typing import Any, Final

from flagtriton.abs_embedder import AbsEmbedder
from flagtriton.checkpoints import EMBEDDERS, checkpoint_name
from flagtriton.checks import served_class
from flagtriton.connection import ConnectionSettings
from flagtriton.embedders import FlagLLMModel, FlagModel
from flagtriton.icl import FlagICLModel
from flagtriton.m3 import BGEM3FlagModel
from flagtriton.pseudo_moe import FlagPseudoMoEModel
from flagtriton.served import ServedModel
from flagtriton.types import DeviceSpec, EmbedderModelClass

__all__ = ["FlagAutoModel"]

_CLASSES: Final[dict[EmbedderModelClass, type[AbsEmbedder]]] = {
    EmbedderModelClass.ENCODER_ONLY_BASE: FlagModel,
    EmbedderModelClass.ENCODER_ONLY_M3: BGEM3FlagModel,
    EmbedderModelClass.DECODER_ONLY_BASE: FlagLLMModel,
    EmbedderModelClass.DECODER_ONLY_ICL: FlagICLModel,
    EmbedderModelClass.DECODER_ONLY_PSEUDO_MOE: FlagPseudoMoEModel,
}


class FlagAutoModel:
    """Not to be instantiated: call `from_finetuned`."""

    def __init__(self) -> None:
        raise OSError(
            "FlagAutoModel is designed to be instantiated using the "
            "`FlagAutoModel.from_finetuned(model_name_or_path)` method."
        )

    @classmethod
    def from_finetuned(
        cls,
        model_name_or_path: str,
        model_class: str | EmbedderModelClass | None = None,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        devices: DeviceSpec = None,
        pooling_method: str | None = None,
        trust_remote_code: bool | None = None,
        query_instruction_format: str | None = None,
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> AbsEmbedder:
        """Return the embedder that talks to the deployment of `model_name_or_path`.

        Args:
            model_name_or_path: a deployment's name, or the checkpoint it was made from.
            model_class: one of `EmbedderModelClass`; None takes the model table's, or for a name it lacks, what
                the server says.
            normalize_embeddings: return unit vectors.
            use_fp16: permits half precision.
            use_bf16: likewise.
            query_instruction_for_retrieval: put before queries.
            devices: compared with the deployment's.
            pooling_method: None takes the model table's, else the deployment's; with `model_class` given it is the
                class's own, as in FlagEmbedding. Another than is served is refused.
            trust_remote_code: None takes what is served.
            query_instruction_format: None takes the model table's, else the deployment's; with `model_class`
                given it is `"{}{}"`, as in FlagEmbedding.
            truncate_dim: keep the first so many components, before normalising.
            **kwargs: further arguments of the class, and the fields of `ConnectionSettings`, `url` first.

        Raises:
            ValueError: `model_class` is no class of FlagEmbedding's.
            ModelNotServedError: neither the model table nor the server knows the name; a `ValueError`, too.
            FlagTritonError: as `AbsEmbedder`.
        """
        known = EMBEDDERS.get(checkpoint_name(model_name_or_path))
        if model_class is not None:
            chosen = EmbedderModelClass(model_class)
            pooling, instruction_format = _CLASSES[chosen].DEFAULT_POOLING_METHOD, "{}{}"
        elif known is not None:
            chosen = known.model_class
            pooling, instruction_format = known.pooling_method.value, known.query_instruction_format
        else:
            served = ServedModel.find(checkpoint_name(model_name_or_path), ConnectionSettings.taken_from(dict(kwargs)))
            kwargs["transport"] = served.transport
            chosen, deployment = served_class(served, "embed", EmbedderModelClass), served.deployment
            pooling, instruction_format = deployment.pooling_method, deployment.query_instruction_format
        return _CLASSES[chosen](
            model_name_or_path,
            normalize_embeddings=normalize_embeddings,
            use_fp16=use_fp16,
            use_bf16=use_bf16,
            query_instruction_for_retrieval=query_instruction_for_retrieval,
            query_instruction_format=query_instruction_format or instruction_format,
            devices=devices,
            truncate_dim=truncate_dim,
            pooling_method=pooling_method or pooling,
            trust_remote_code=trust_remote_code,
            **kwargs,
        )
