# SPDX-License-Identifier: Apache-2.0
"""Enumerations and type aliases for arguments and results, with the names of FlagEmbedding's documentation.

Imports neither a transport nor torch, so annotations can use it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Literal, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.model_classes import EmbedderModelClass, RerankerModelClass

if TYPE_CHECKING:
    import torch

__all__ = [
    "ColBERTVectors",
    "CorpusType",
    "DecoderPoolingMethod",
    "DenseEmbedding",
    "DeviceSpec",
    "EmbedderModelClass",
    "EmbeddingOutput",
    "InstructionTemplate",
    "PoolingMethod",
    "QueryType",
    "RerankerModelClass",
    "SentencePair",
    "SparseWeights",
]


class PoolingMethod(str, Enum):
    """Reductions of a text's token vectors to one vector."""

    CLS = "cls"
    MEAN = "mean"
    LAST_TOKEN = "last_token"


DecoderPoolingMethod: TypeAlias = Literal["last_token"]

QueryType: TypeAlias = str | list[str]
CorpusType: TypeAlias = str | list[str]
SentencePair: TypeAlias = tuple[str, str] | list[str]

InstructionTemplate: TypeAlias = str
"""Two positional fields, instruction then text: `"Instruct: {}\\nQuery: {}"`."""

DeviceSpec: TypeAlias = str | int | list[str] | list[int] | None

DenseEmbedding: TypeAlias = NDArray[np.float32]
"""`[D]` for one text, `[B, D]` for a list."""

EmbeddingOutput: TypeAlias = Union[DenseEmbedding, "torch.Tensor"]
"""`numpy.ndarray`, or `torch.Tensor` with `convert_to_numpy=False`."""

SparseWeights: TypeAlias = dict[str, float]
"""Token id, as a string, to its weight (> 0)."""

ColBERTVectors: TypeAlias = NDArray[np.float32]
"""`[T - 1, C]`: a unit vector for every token of a text but the first."""
