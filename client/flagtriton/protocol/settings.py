# SPDX-License-Identifier: Apache-2.0
"""The settings of each step, from the parameters of its `config.pbtxt`, as frozen dataclasses.

Imports neither torch nor Triton. `flagtriton add` writes the same classes that the steps read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from flagtriton.protocol.model_classes import ModelClass, model_class_row

__all__ = [
    "ColbertSettings",
    "DenseSparseSettings",
    "EncoderSettings",
    "HeadSettings",
    "LayerwiseSettings",
    "PoolerSettings",
    "QueueLimits",
    "RerankerHeadSettings",
    "ScorerSettings",
    "TokenizerSettings",
    "rows_needed",
]

T = TypeVar("T")


@dataclass(frozen=True)
class TokenizerSettings:
    """Settings of the tokenizer step.

    Attributes:
        checkpoint: local folder or hub name.
        max_length: largest number of tokens of a text that a request may ask for, and the default without
            `default_max_length`.
        model_class: FlagEmbedding's name of the class, which determines the options of requests.
        query_instruction: text before inputs with `input_type=query`; `passage_instruction` is its counterpart for
            passages.
        send_unweighted_ids: send the ids of special tokens without a lexical weight to the next steps.
        joins_pairs: requests contain pairs, and each pair becomes one row, as a reranker reads it.
        positions: largest number of tokens of a whole row, prompt included; None for `max_length`.
        max_text_bytes: largest part of one text that is tokenized, bytes of UTF-8. A longer text is refused, unless
            this part determines all tokens that are kept.
        max_request_bytes: largest size of all texts of a request together, bytes of UTF-8.
        send_prompt_length: send how many first tokens of a text belong to a prompt; for other fields see
            `deployment.Deployment`.
        queue_requests: largest number of waiting requests of each priority.
        queue_tokens: approximate largest number of tokens of all their texts.
        queue_timeout_s: longest time that a request waits, seconds.
    """

    checkpoint: str
    max_length: int
    model_class: str = "encoder-only-base"
    revision: str | None = None
    trust_remote_code: bool = False
    query_instruction: str | None = None
    query_instruction_format: str = "{}{}"
    passage_instruction: str | None = None
    passage_instruction_format: str = "{}{}"
    send_unweighted_ids: bool = False
    joins_pairs: bool = False
    positions: int | None = None
    max_text_bytes: int = 1 << 20
    max_request_bytes: int = 16 << 20
    queue_requests: int = 128
    queue_tokens: int = 131_072
    queue_timeout_s: float = 60.0
    default_max_length: int | None = None
    lower_case: bool | None = None
    send_prompt_length: bool | None = None
    prompts: str | None = None
    default_prompt_name: str | None = None

    @property
    def row(self) -> ModelClass:
        """The row of its model class."""
        return model_class_row("rerank" if self.joins_pairs else "embed", self.model_class)


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of the encoder step.

    Attributes:
        checkpoint: local folder or hub name.
        max_length: largest number of tokens of a text, compared with the positions of the checkpoint when it loads.
        token_budget: largest number of tokens of one forward pass; a longer text still runs, alone.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        rows: hidden states of a text that leave the encoder: `all`, `first` or `last`.
        pooling_method: pooling in the encoder, which then sends embeddings and not hidden states. None leaves pooling
            to the pooler.
        peft: an adapter, local folder or hub name, that is merged into the weights of the checkpoint.
        shard: numbers of the GPUs that one instance is spread over, for example `0,1`; None for the device of the
            instance.
        token_types: rows are pairs, and passages have a separate token type if the model has token types.
        scores: run a reranker with its own head and send only its score. The name of the head is unknown if the
            checkpoint has its own code.
        pseudo_moe: requests may choose a domain of the model. If the encoder pools, it also applies
            `PoolerSettings.pseudo_moe`.
        queue_requests: largest number of waiting requests of each priority; None derives it from the token budget.
        queue_tokens: largest number of tokens of all their texts; None derives it from the token budget.
        queue_timeout_s: longest time that a request waits, seconds.
        definition: summary of sentence-transformers' files when the deployment was added; see
            `sentence_transformers/check.py`.
        modules: modules after pooling if the encoder pools. This field and the next three are those of
            `PoolerSettings`.
    """

    checkpoint: str
    max_length: int
    token_budget: int
    precision: str = "auto"
    rows: str = "all"
    pooling_method: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    peft: str | None = None
    shard: str | None = None
    token_types: bool = False
    scores: bool = False
    pseudo_moe: bool = False
    queue_requests: int | None = None
    queue_tokens: int | None = None
    queue_timeout_s: float | None = None
    definition: str | None = None
    modules: str | None = None
    normalize: bool | None = None
    truncate_dim: int | None = None
    skip_prompts: bool | None = None


@dataclass(frozen=True)
class LayerwiseSettings:
    """Settings of the encoder step of a reranker whose layers are scored separately.

    Attributes:
        model_class: `decoder-only-layerwise` or `decoder-only-lightweight`; the other fields are those of
            `EncoderSettings`.
    """

    checkpoint: str
    model_class: str
    max_length: int
    token_budget: int
    precision: str = "auto"
    revision: str | None = None
    peft: str | None = None
    queue_requests: int | None = None
    queue_tokens: int | None = None
    queue_timeout_s: float | None = None


@dataclass(frozen=True)
class PoolerSettings:
    """Settings of the pooler step.

    Attributes:
        precision: precision of the encoder, which determines the dtype of the hidden states.
        device: device of the encoder, `cpu` or `gpu`; the meaning of `auto` depends on it.
        rows: hidden states of a text that leave the encoder: `all`, `first` or `last`.
        pseudo_moe: send 0 for nan and ±10,000 for infinities.
        modules: modules after pooling, separated by commas: `Dense:` and the folder of the module, or `Normalize`.
        checkpoint: local folder or hub name that has these folders.
        normalize: whether vectors are normalized if the request does not set it; None for true.
        truncate_dim: number of components if the request sets none; None for all.
        skip_prompts: the tokens of a prompt are not pooled; None for false.
    """

    pooling_method: str
    precision: str = "auto"
    device: str = "cpu"
    rows: str = "all"
    pseudo_moe: bool = False
    modules: str | None = None
    checkpoint: str | None = None
    revision: str | None = None
    normalize: bool | None = None
    truncate_dim: int | None = None
    skip_prompts: bool | None = None


@dataclass(frozen=True)
class HeadSettings:
    """Settings that all steps with heads share.

    Attributes:
        checkpoint: local folder or hub name of the files that the heads are read from.
        precision: precision of the encoder; a head is rounded like the encoder's weights.
        device: device of the encoder, `cpu` or `gpu`.
    """

    checkpoint: str
    precision: str = "auto"
    device: str = "cpu"
    revision: str | None = None


@dataclass(frozen=True)
class DenseSparseSettings(HeadSettings):
    """Settings of the step that computes BGE-M3's dense vectors and lexical weights.

    Attributes:
        pooling_method: pooling of the dense vectors.
        normalize: whether vectors are normalized if the request does not set it; None for true.
    """

    pooling_method: str = "cls"
    normalize: bool | None = None


@dataclass(frozen=True)
class RerankerHeadSettings(HeadSettings):
    """Settings of the step that computes the scores of a reranker.

    Attributes:
        model_class: FlagEmbedding's name of the class, which determines the kind of head that the checkpoint has.
        peft: an adapter, local folder or hub name, that may contain a separate head.
        scored_in_encoder: the input is already scores, in float32.
    """

    model_class: str = "encoder-only-base"
    peft: str | None = None
    scored_in_encoder: bool = False

    @property
    def row(self) -> ModelClass:
        """The row of its model class."""
        return model_class_row("rerank", self.model_class)


@dataclass(frozen=True)
class ColbertSettings(HeadSettings):
    """Settings of the ColBERT step.

    Attributes:
        colbert_dim: C that the head must have; None for any C.
        colbert_dtype: `fp32` or `fp16`, the dtype that the SDK requests; each request sets the dtype of its vectors.
    """

    colbert_dim: int | None = None
    colbert_dtype: str = "fp32"


@dataclass(frozen=True)
class ScorerSettings(HeadSettings):
    """Settings of the step that scores pairs.

    Attributes:
        pooling_method: pooling of the dense vectors.
        colbert_dim: as in `ColbertSettings`.
    """

    pooling_method: str = "cls"
    colbert_dim: int | None = None


def rows_needed(pooling_method: str, *, skip_prompts: bool = False) -> str:
    """Return which hidden states of a text a pooling reads: `first`, `last` or `all`."""
    return "all" if skip_prompts else {"cls": "first", "last_token": "last"}.get(pooling_method, "all")


@dataclass(frozen=True)
class QueueLimits:
    """Limits of a queue, which apply to interactive and to bulk requests separately.

    Attributes:
        requests: largest number of waiting requests.
        tokens: largest number of tokens of all their texts; a request that finds no other waiting is admitted with any
            size.
        timeout_s: longest time that a request waits before it is refused, seconds; a request may ask for less.
    """

    requests: int
    tokens: int
    timeout_s: float = 60.0

    @classmethod
    def for_budget(cls, token_budget: int) -> QueueLimits:
        """Return the limits of a step that computes `token_budget` tokens in one forward pass.

        The token limit is the work of 32 passes, which suits bulk requests. Short queries cost more than their tokens.
        The request limit therefore admits only as many of them as are answered within a moment.
        """
        return cls(max(64, token_budget // 32), 32 * token_budget)
