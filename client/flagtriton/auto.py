# SPDX-License-Identifier: Apache-2.0
"""`FlagAutoModel` and `FlagAutoReranker`: factories that choose the class for a model name."""

from __future__ import annotations

from typing import Any, Final

from flagtriton.checkpoints import EMBEDDERS, RERANKERS, checkpoint_name
from flagtriton.embedders.base import AbsEmbedder
from flagtriton.embedders.decoder import FlagLLMModel
from flagtriton.embedders.encoder import FlagModel
from flagtriton.embedders.icl import FlagICLModel
from flagtriton.embedders.pseudo_moe import FlagPseudoMoEModel
from flagtriton.m3.model import BGEM3FlagModel
from flagtriton.remote.base import FOUND_MODEL
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
    """A namespace for `from_finetuned`; it has no instances."""

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
        """Return the embedder for the deployment of `model_name_or_path`.

        Args:
            model_name_or_path: a deployment's name, or the checkpoint it was made from.
            model_class: one of `EmbedderModelClass`; None takes the model table's, or the deployment's for a name that
                the table lacks.
            normalize_embeddings: return unit vectors.
            use_fp16: permits half precision.
            use_bf16: permits bfloat16.
            query_instruction_for_retrieval: put before queries.
            devices: compared with the deployment's.
            pooling_method: None takes the model table's, else the deployment's; together with `model_class` it takes
                the class' default, as in FlagEmbedding.
            trust_remote_code: None takes the deployment's.
            query_instruction_format: None takes the model table's, else the deployment's; together with `model_class`
                it is `"{}{}"`, as in FlagEmbedding.
            truncate_dim: number of leading components to keep, before normalisation.
            **kwargs: other arguments of the class, and the fields of `ConnectionSettings`.

        Raises:
            ValueError: `model_class` is no class of FlagEmbedding's.
            ModelNotServedError: neither the model table nor the server knows the name; also a `ValueError`.
            FlagTritonError: as `AbsEmbedder`.
        """
        known = EMBEDDERS.get(checkpoint_name(model_name_or_path))
        if model_class is not None:
            resolved_class = EmbedderModelClass(model_class)
            pooling, instruction_format = _EMBEDDERS[resolved_class].DEFAULT_POOLING_METHOD, "{}{}"
        elif known is not None:
            resolved_class = known.model_class
            pooling, instruction_format = known.pooling_method.value, known.query_instruction_format
        else:
            served = ServedModel.find(checkpoint_name(model_name_or_path), ConnectionSettings.pop_from(kwargs))
            kwargs[FOUND_MODEL] = served
            resolved_class, deployment = served_class(served, "embed", EmbedderModelClass), served.deployment
            pooling, instruction_format = deployment.pooling_method, deployment.query_instruction_format
        return _EMBEDDERS[resolved_class](
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
    """A namespace for `from_finetuned`; it has no instances."""

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
        """Return the reranker for the deployment of `model_name_or_path`.

        Args:
            model_name_or_path: a deployment's name, or the checkpoint it was made from.
            model_class: one of `RerankerModelClass`; None takes the model table's, or the deployment's for a name that
                the table lacks.
            use_fp16: permits half precision.
            trust_remote_code: None takes the deployment's.
            **kwargs: other arguments of the class, and the fields of `ConnectionSettings`.

        Raises:
            ValueError: `model_class` is no class of FlagEmbedding's.
            FlagTritonError: as `AbsReranker`.
        """
        known = RERANKERS.get(checkpoint_name(model_name_or_path))
        if model_class is not None:
            resolved_class = RerankerModelClass(model_class)
        elif known is not None:
            resolved_class = known.model_class
        else:
            served = ServedModel.find(checkpoint_name(model_name_or_path), ConnectionSettings.pop_from(kwargs))
            kwargs[FOUND_MODEL] = served
            resolved_class = served_class(served, "rerank", RerankerModelClass)
        return _RERANKERS[resolved_class](
            model_name_or_path, use_fp16=use_fp16, trust_remote_code=trust_remote_code, **kwargs
        )
