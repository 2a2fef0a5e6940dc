# SPDX-License-Identifier: Apache-2.0
"""The table of architectures: properties of transformers' model types, and of a `config.json`.

A model type without a row is served with padding if transformers supports it. A new architecture needs a row here and
an entry in the parity test, `tests/unit/server/engines/torch_packed/test_architectures.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["ARCHITECTURES", "architecture_of", "attention_path", "position_capacity"]


@dataclass(frozen=True)
class Architecture:
    """One model type of transformers.

    Attributes:
        model_type: the value in `config.json`.
        encoder: `flagtriton add` takes a bare checkpoint for an `encoder-only-base` embedder.
        decoder: `flagtriton add` takes a bare checkpoint for a `decoder-only-base` embedder.
        packed: texts pass through the model end to end, without padding.
        fused: its layers are those of BERT, which `engines/torch_packed/fused_bert.py` computes in fewer operations.
        offset_positions: its first position is `pad_token_id + 1`, so the position table has that many unused rows.
        separate_head: a reranker's head reads only the hidden state of the first token, so a separate step runs the
            head.
        shares_padding_id: a tokenizer with another padding id than the model's belongs to another model.
    """

    model_type: str
    encoder: bool = False
    decoder: bool = False
    packed: bool = False
    fused: bool = False
    offset_positions: bool = False
    separate_head: bool = False
    shares_padding_id: bool = False


_ROBERTA: Final[dict[str, bool]] = {
    "encoder": True,
    "packed": True,
    "fused": True,
    "offset_positions": True,
    "separate_head": True,
    "shares_padding_id": True,
}
_DECODER: Final[dict[str, bool]] = {"decoder": True, "packed": True}

_ROWS: Final = (
    Architecture("bert", encoder=True, packed=True, fused=True, separate_head=True),
    Architecture("roberta", **_ROBERTA),
    Architecture("xlm-roberta", **_ROBERTA),
    Architecture("camembert", **_ROBERTA),
    Architecture("modernbert", encoder=True, packed=True),
    Architecture("distilbert", encoder=True),
    Architecture("mpnet", encoder=True, offset_positions=True),
    Architecture("xlm-roberta-xl", offset_positions=True),
    Architecture("longformer", offset_positions=True),
    Architecture("data2vec-text", offset_positions=True),
    Architecture("gemma", **_DECODER),
    Architecture("gemma2", **_DECODER),
    Architecture("llama", **_DECODER),
    Architecture("mistral", **_DECODER),
    Architecture("qwen2", **_DECODER),
    Architecture("qwen3", **_DECODER),
)

ARCHITECTURES: Final[Mapping[str, Architecture]] = {row.model_type: row for row in _ROWS}


def architecture_of(model_type: object) -> Architecture:
    """Return the row of a model type; a type that is not in the table gets a row without any property."""
    name = str(model_type)
    return ARCHITECTURES.get(name, Architecture(name))


def attention_path(model_type: str | None, trust_remote_code: bool) -> str:
    """Return `packed` if texts pass through a model end to end, else `padded`.

    Code in a checkpoint has its own attention, so texts are always padded for it.
    """
    return "packed" if architecture_of(model_type).packed and not trust_remote_code else "padded"


def position_capacity(config: Mapping[str, Any]) -> int | None:
    """Return the largest number of tokens of one text, special tokens included, or None if the model sets no limit.

    RoBERTa's family counts positions from `pad_token_id + 1`: a table of 514 rows holds 512 tokens.
    """
    rows = config.get("max_position_embeddings")
    if not isinstance(rows, int) or rows < 1:
        return None
    if architecture_of(config.get("model_type")).offset_positions:
        pad = config.get("pad_token_id")
        return rows - (1 if pad is None else int(pad)) - 1
    return rows
