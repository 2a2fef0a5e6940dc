# SPDX-License-Identifier: Apache-2.0
"""FlagEmbedding's API on a Triton server.

Importing this package imports neither torch, transformers nor tritonclient; their first use does.
"""

from __future__ import annotations

from flagtriton.auto import FlagAutoModel, FlagAutoReranker
from flagtriton.checkpoints import support_model_list, support_native_bge_model_list
from flagtriton.embedders.base import AbsEmbedder
from flagtriton.embedders.decoder import FlagLLMModel
from flagtriton.embedders.encoder import FlagModel
from flagtriton.embedders.icl import FlagICLModel
from flagtriton.embedders.pseudo_moe import FlagPseudoMoEModel
from flagtriton.errors import (
    AccessDeniedError,
    ClosedError,
    DeploymentMismatchError,
    DeploymentWarning,
    FlagTritonError,
    ForkedProcessError,
    InvalidRequestError,
    MissingExtraError,
    ModelNotServedError,
    RequestTimeoutError,
    RequestTooLargeError,
    ServerError,
    ServerUnavailableError,
    WrongServerError,
)
from flagtriton.m3.model import BGEM3FlagModel
from flagtriton.m3.output import M3Output
from flagtriton.rerankers.base import AbsReranker
from flagtriton.rerankers.encoder import FlagReranker
from flagtriton.rerankers.layerwise import LayerWiseFlagLLMReranker, LightWeightFlagLLMReranker
from flagtriton.rerankers.llm import FlagLLMReranker
from flagtriton.transport.base import TLS
from flagtriton.types import EmbedderModelClass, RerankerModelClass

__all__ = [
    "TLS",
    "AbsEmbedder",
    "AbsReranker",
    "AccessDeniedError",
    "BGEM3FlagModel",
    "ClosedError",
    "DeploymentMismatchError",
    "DeploymentWarning",
    "EmbedderModelClass",
    "FlagAutoModel",
    "FlagAutoReranker",
    "FlagICLModel",
    "FlagLLMModel",
    "FlagLLMReranker",
    "FlagModel",
    "FlagPseudoMoEModel",
    "FlagReranker",
    "FlagTritonError",
    "ForkedProcessError",
    "InvalidRequestError",
    "LayerWiseFlagLLMReranker",
    "LightWeightFlagLLMReranker",
    "M3Output",
    "MissingExtraError",
    "ModelNotServedError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "RerankerModelClass",
    "ServerError",
    "ServerUnavailableError",
    "WrongServerError",
    "support_model_list",
    "support_native_bge_model_list",
]

__version__ = "0.1.0"
