# SPDX-License-Identifier: Apache-2.0
"""The table of model classes: one row for each FlagEmbedding class that is served.

SDK, server and `flagtriton add` read this table and keep no separate lists. A new class needs a row here, its new code,
and a parity test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

__all__ = [
    "MODEL_CLASSES",
    "PASSAGE_INSTRUCTION",
    "POOLINGS",
    "QUERY_INSTRUCTION",
    "EmbedderModelClass",
    "ModelClass",
    "RerankerModelClass",
    "check_pooling",
    "model_class_row",
]

Task: TypeAlias = Literal["embed", "rerank"]

POOLINGS: Final = ("cls", "mean", "last_token", "max", "mean_sqrt_len", "weightedmean")
"""Each pooling reduces the hidden states of a text to one vector. Several poolings joined by `+` are concatenated."""

QUERY_INSTRUCTION: Final = "A: "
PASSAGE_INSTRUCTION: Final = "B: "
"""Default instructions of LLM rerankers: their prompts call the query A and the passage B."""


class EmbedderModelClass(str, Enum):
    """The embedder classes, by the value of the argument `model_class=`; a member equals its value."""

    ENCODER_ONLY_BASE = "encoder-only-base"
    ENCODER_ONLY_M3 = "encoder-only-m3"
    DECODER_ONLY_BASE = "decoder-only-base"
    DECODER_ONLY_ICL = "decoder-only-icl"
    DECODER_ONLY_PSEUDO_MOE = "decoder-only-pseudo_moe"


class RerankerModelClass(str, Enum):
    """The reranker classes, by the value of the argument `model_class=`; a member equals its value."""

    ENCODER_ONLY_BASE = "encoder-only-base"
    DECODER_ONLY_BASE = "decoder-only-base"
    DECODER_ONLY_LAYERWISE = "decoder-only-layerwise"
    DECODER_ONLY_LIGHTWEIGHT = "decoder-only-lightweight"


@dataclass(frozen=True)
class ModelClass:
    """One model class.

    Attributes:
        task: `embed` takes texts, `rerank` takes pairs of a query and a passage.
        name: FlagEmbedding's name of the class.
        steps: the Python-backend steps of a deployment, in the order in which a request passes them.
        poolings: the poolings that a checkpoint of the class may have; rerankers have none.
        options: request options that this class has in addition to those of its task.
        decoder: the checkpoint is a decoder (an LLM); `auto` precision is then bf16 on a GPU.
        layerwise: hidden states of several layers are scored.
        architectures: values of `architectures` in `config.json` that only checkpoints of this class have.
        prompt: the question that an LLM reranker puts after each pair, unless the request has one.
        query_instruction: default instruction of an LLM reranker for queries.
        passage_instruction: default instruction of an LLM reranker for passages.
        query_instruction_format: default format of query instructions.
    """

    task: Task
    name: EmbedderModelClass | RerankerModelClass
    steps: tuple[str, ...]
    poolings: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    decoder: bool = False
    layerwise: bool = False
    architectures: tuple[str, ...] = ()
    prompt: str | None = None
    query_instruction: str | None = None
    passage_instruction: str | None = None
    query_instruction_format: str = "{}{}"

    @property
    def is_llm_reranker(self) -> bool:
        """Whether a decoder answers a question about each pair."""
        return self.task == "rerank" and self.decoder

    @property
    def is_encoder_reranker(self) -> bool:
        """Whether an encoder reads both texts of a pair, and a head scores its first token."""
        return self.task == "rerank" and not self.decoder


_EMBEDDER: Final = ("tokenizer", "encoder", "pooler")
_RERANKER: Final = ("tokenizer", "encoder", "reranker_scorer")
_LAYERWISE_RERANKER: Final = ("tokenizer", "layerwise_encoder", "reranker_scorer")
_LAST_TOKEN: Final = ("last_token",)
_LLM_OPTIONS: Final = ("prompt", "query_instruction", "passage_instruction")
_YES_OR_NO: Final = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)

_ROWS: Final = (
    ModelClass("embed", EmbedderModelClass.ENCODER_ONLY_BASE, _EMBEDDER, POOLINGS),
    ModelClass(
        "embed",
        EmbedderModelClass.ENCODER_ONLY_M3,
        ("tokenizer", "encoder", "dense_sparse", "colbert", "scorer"),
        POOLINGS,
        options=("colbert_dtype",),
    ),
    ModelClass("embed", EmbedderModelClass.DECODER_ONLY_BASE, _EMBEDDER, _LAST_TOKEN, decoder=True),
    ModelClass(
        "embed",
        EmbedderModelClass.DECODER_ONLY_ICL,
        _EMBEDDER,
        _LAST_TOKEN,
        options=("examples", "examples_instruction_format", "prefix", "suffix"),
        decoder=True,
        query_instruction_format="<instruct>{}\n<query>{}",
    ),
    ModelClass(
        "embed",
        EmbedderModelClass.DECODER_ONLY_PSEUDO_MOE,
        _EMBEDDER,
        _LAST_TOKEN,
        options=("domain",),
        decoder=True,
    ),
    ModelClass("rerank", RerankerModelClass.ENCODER_ONLY_BASE, _RERANKER),
    ModelClass(
        "rerank",
        RerankerModelClass.DECODER_ONLY_BASE,
        _RERANKER,
        options=_LLM_OPTIONS,
        decoder=True,
        prompt=_YES_OR_NO,
        query_instruction=QUERY_INSTRUCTION,
        passage_instruction=PASSAGE_INSTRUCTION,
    ),
    ModelClass(
        "rerank",
        RerankerModelClass.DECODER_ONLY_LAYERWISE,
        _LAYERWISE_RERANKER,
        options=(*_LLM_OPTIONS, "cutoff_layers"),
        decoder=True,
        layerwise=True,
        architectures=("LayerWiseMiniCPMForCausalLM",),
        prompt=_YES_OR_NO,
        query_instruction=QUERY_INSTRUCTION,
        passage_instruction=PASSAGE_INSTRUCTION,
    ),
    ModelClass(
        "rerank",
        RerankerModelClass.DECODER_ONLY_LIGHTWEIGHT,
        _LAYERWISE_RERANKER,
        options=(*_LLM_OPTIONS, "cutoff_layers", "compress_layers", "compress_ratio"),
        decoder=True,
        layerwise=True,
        architectures=("CostWiseGemmaForCausalLM",),
        prompt="Predict whether passage B contains an answer to query A.",
        query_instruction=QUERY_INSTRUCTION,
        passage_instruction=PASSAGE_INSTRUCTION,
    ),
)

MODEL_CLASSES: Final[Mapping[tuple[str, str], ModelClass]] = {(row.task, row.name.value): row for row in _ROWS}
"""All rows by task and name. An embedder and a reranker may have the same name."""


def model_class_row(task: str, name: str) -> ModelClass:
    """Return the row of a class.

    Raises:
        ValueError: this version does not serve the class; the message lists the classes that it serves.
    """
    row = MODEL_CLASSES.get((task, name))
    if row is None:
        served = ", ".join(f"{task} {name}" for task, name in MODEL_CLASSES)
        raise ValueError(f"{task} {name} is not a class that this version serves; it serves {served}")
    return row


def check_pooling(method: str, what: str = "pooling_method") -> list[str]:
    """Return the poolings that a name joins.

    Args:
        method: one pooling, or several joined by `+`.
        what: name of the setting in the message.

    Raises:
        ValueError: one of them is not in `POOLINGS`.
    """
    names = method.split("+")
    if not all(name in POOLINGS for name in names):
        raise ValueError(f"{what} is {method!r}; expected one of {', '.join(POOLINGS)}, or several joined by +")
    return names
