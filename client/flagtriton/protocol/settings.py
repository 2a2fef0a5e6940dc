# SPDX-License-Identifier: Apache-2.0
"""What each step is told by the parameters of its `config.pbtxt`, as frozen dataclasses.

Imports neither torch nor Triton: `flagtriton add` writes the same classes that the steps read.
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
    """The tokenizer step.

    Attributes:
        checkpoint: local folder or hub name.
        max_length: the most tokens of a text that a request may ask for, and what it gets if it asks for none.
        model_class: FlagEmbedding's name of it, which settles what options requests have.
        query_instruction: put before texts sent with `input_type=query`; likewise `passage_instruction`.
        send_unweighted_ids: tell the steps behind which special tokens bear no lexical weight.
        joins_pairs: requests bring pairs that become one row each, as a reranker reads them.
        positions: tokens of a whole row, prompt included; None is `max_length`.
        max_text_bytes: tokenised of one text at most, UTF-8; a longer one is refused unless these settle all of its
            tokens that are kept.
        max_request_bytes: of a request's texts together.
        send_prompt_length: say how many of a text's first tokens are a prompt's; else see `protocol.Deployment`.
        queue_requests: how many may wait, of each priority.
        queue_tokens: of all their texts, about.
        queue_timeout_s: how long one waits.
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
    """The encoder step.

    Attributes:
        checkpoint: local folder or hub name.
        max_length: checked against the checkpoint's positions when it loads.
        token_budget: the most tokens of one forward pass; a longer text still runs, alone.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        rows: which hidden states of a text leave the encoder: `all`, `first` or `last`.
        pooling_method: pool here and send embeddings rather than hidden states; None leaves that to the pooler.
        peft: an adapter, local folder or hub name, that is merged into the checkpoint's weights.
        shard: numbers of the GPUs that one instance is spread over, e.g. `0,1`; None is the instance's own device.
        token_types: rows are pairs, whose passages have a type of their own where the model knows types.
        scores: run a reranker with its own head, whose score is then all that leaves the encoder: what code that comes
            with a checkpoint calls a head cannot be known.
        pseudo_moe: requests may choose a domain of the model's; and as for the pooler, where texts are pooled here.
        queue_requests: how many may wait, of each priority; None follows from the token budget, as the next.
        queue_tokens: of all their texts.
        queue_timeout_s: how long one waits.
        definition: what sentence-transformers' files said when it was added; `definition_check` describes it.
        modules: what follows pooling where texts are pooled here; this and the next three are `PoolerSettings`'.
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
    """The encoder step of a reranker whose layers are scored one by one.

    Attributes:
        model_class: `decoder-only-layerwise` or `decoder-only-lightweight`; what else is as in `EncoderSettings`.
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
    """The pooler step.

    Attributes:
        precision: the encoder's, which tells the dtype of the hidden states that come.
        device: where the encoder runs, `cpu` or `gpu`; `auto` means something else on each.
        rows: which hidden states of a text leave the encoder: `all`, `first` or `last`.
        pseudo_moe: send 0 for nan and ±10,000 for infinities.
        modules: what follows pooling, separated by commas: `Dense:` and the module's folder, or `Normalize`.
        checkpoint: local folder or hub name that has these folders.
        normalize: whether vectors are normalised whose request does not say; None is true.
        truncate_dim: how many components such a request gets; None is all.
        skip_prompts: a prompt's tokens are not pooled; None is false.
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
    """What steps with heads of their own share.

    Attributes:
        checkpoint: local folder or hub name, whose files the heads are read from.
        precision: the encoder's; a head is rounded as its weights are.
        device: where the encoder runs, `cpu` or `gpu`.
    """

    checkpoint: str
    precision: str = "auto"
    device: str = "cpu"
    revision: str | None = None


@dataclass(frozen=True)
class DenseSparseSettings(HeadSettings):
    """The step that makes BGE-M3's dense vectors and lexical weights.

    Attributes:
        pooling_method: of the dense vectors.
        normalize: default of requests that do not say whether vectors are normalised; None is true.
    """

    pooling_method: str = "cls"
    normalize: bool | None = None


@dataclass(frozen=True)
class RerankerHeadSettings(HeadSettings):
    """The step that makes a reranker's scores.

    Attributes:
        model_class: FlagEmbedding's name of it, which settles what kind of head the checkpoint has.
        peft: an adapter, local folder or hub name, that may bring a head of its own.
        scored_in_encoder: what comes are scores already, in float32.
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
    """The ColBERT step.

    Attributes:
        colbert_dim: C that the head must have; None takes what it has.
        colbert_dtype: `fp32` or `fp16`, which the SDK asks for; each request says itself in which its vectors travel.
    """

    colbert_dim: int | None = None
    colbert_dtype: str = "fp32"


@dataclass(frozen=True)
class ScorerSettings(HeadSettings):
    """The step that scores pairs.

    Attributes:
        pooling_method: of the dense vectors.
        colbert_dim: as in `ColbertSettings`.
    """

    pooling_method: str = "cls"
    colbert_dim: int | None = None


def rows_needed(pooling_method: str, *, skip_prompts: bool = False) -> str:
    """Return which of a text's hidden states a pooling reads: `first`, `last` or `all`."""
    return "all" if skip_prompts else {"cls": "first", "last_token": "last"}.get(pooling_method, "all")


@dataclass(frozen=True)
class QueueLimits:
    """What may wait, of interactive and of bulk requests each.

    Attributes:
        requests: so many at most.
        tokens: of all their texts together; a request that finds none waiting is taken whatever its size.
        timeout_s: how long one waits at most before it is refused; a request may ask for less.
    """

    requests: int
    tokens: int
    timeout_s: float = 60.0

    @classmethod
    def for_budget(cls, token_budget: int) -> QueueLimits:
        """Return those of a step that computes so many tokens in one forward pass.

        The work of 32 passes, as bulk requests bring it; of short queries, which cost more than their tokens, only as
        many as are answered within a moment.
        """
        return cls(max(64, token_budget // 32), 32 * token_budget)
