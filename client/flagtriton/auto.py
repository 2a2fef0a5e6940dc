# SPDX-License-Identifier: Apache-2.0
"""The factories that find the class for a model name."""

from __future__ import annotations

from typing import Any, Final

from flagtriton.checkpoints import EMBEDDERS, RERANKERS, checkpoint_name
from flagtriton.embedders.base import AbsEmbedder
from flagtriton.embedders.decoder import FlagLLMModel
from flagtriton.embedders.encoder import FlagModel
from flagtriton.embedders.icl import FlagICLModel
from flagtriton.embedders.pseudo_moe import FlagPseudoMoEModel
from flagtriton.m3.model import BGEM3FlagModel
from flagtriton.remote.compatibility import served_class
from flagtriton.remote.connection import ConnectionSettings
from flagtriton.remote.model import ServedModel
from flagtriton.rerankers.base import AbsReranker
from flagtriton.rerankers.encoder import FlagReranker
from flagtriton.rerankers.layerwise import LayerWiseFlagLLMReranker, LightWeightFlagLLMReranker
from flagtriton.rerankers.llm import FlagLLMReranker
from flagtriton.types import DeviceSpec, EmbedderModelClass, RerankerModelClass

__all__ = ["FlagAutoModel", "FlagAutoReranker"]

_EMBEDDERS: Final[dict[EmbedderModelClass, type[AbsEmbedder]]] = {
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
            pooling, instruction_format = _EMBEDDERS[chosen].DEFAULT_POOLING_METHOD, "{}{}"
        elif known is not None:
            chosen = known.model_class
            pooling, instruction_format = known.pooling_method.value, known.query_instruction_format
        else:
            served = ServedModel.find(checkpoint_name(model_name_or_path), ConnectionSettings.taken_from(dict(kwargs)))
            kwargs["transport"] = served.transport
            chosen, deployment = served_class(served, "embed", EmbedderModelClass), served.deployment
            pooling, instruction_format = deployment.pooling_method, deployment.query_instruction_format
        return _EMBEDDERS[chosen](
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


_RERANKERS: Final[dict[RerankerModelClass, type[AbsReranker]]] = {
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
        return _RERANKERS[chosen](model_name_or_path, use_fp16=use_fp16, trust_remote_code=trust_remote_code, **kwargs)
