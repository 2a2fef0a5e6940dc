# SPDX-License-Identifier: Apache-2.0
"""What a deployment's model class means for how its steps are made. Pure."""

from __future__ import annotations

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.precision import best_cpu_precision
from flagtriton.types import EmbedderModelClass, RerankerModelClass

__all__ = ["LAYERED", "is_encoder_reranker", "is_llm_reranker", "is_m3", "is_pseudo_moe", "resolved_precision"]

LAYERED = (RerankerModelClass.DECODER_ONLY_LAYERWISE.value, RerankerModelClass.DECODER_ONLY_LIGHTWEIGHT.value)
"""The classes whose requests may ask for the scores of several layers."""


def is_encoder_reranker(task: str, model_class: str) -> bool:
    """Return whether a first token's vector is scored, and both sides of a pair may have a type of their own."""
    return task == "rerank" and model_class == RerankerModelClass.ENCODER_ONLY_BASE.value


def is_llm_reranker(task: str, model_class: str) -> bool:
    """Return whether a language model is asked about each pair, the layered classes included."""
    return task == "rerank" and model_class != RerankerModelClass.ENCODER_ONLY_BASE.value


def is_m3(served: Deployment) -> bool:
    """Return whether dense, sparse and ColBERT vectors are made of one pass."""
    return served.model_class == EmbedderModelClass.ENCODER_ONLY_M3.value


def resolved_precision(served: Deployment) -> str:
    """Return what a deployment's precision comes to; `auto` on a processor is what this machine's computes in."""
    if served.precision != "auto":
        return served.precision
    if served.device.startswith("gpu"):
        return "bf16" if served.model_class.startswith("decoder-only") else "fp16"
    return best_cpu_precision()


def is_pseudo_moe(served: Deployment) -> bool:
    """Return whether a request's domain chooses the weights."""
    return served.model_class == EmbedderModelClass.DECODER_ONLY_PSEUDO_MOE.value
