# SPDX-License-Identifier: Apache-2.0
"""Tokens that a tokenizer has and its model has no embedding of. Imports no torch.

Somebody has added tokens to the tokenizer and not resized the model, for instance a padding token, which no text needs.
Such a checkpoint is served; a text that contains one of these tokens is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from flagtriton_server.errors import RequestError

__all__ = ["Unembedded"]


@dataclass(frozen=True)
class Unembedded:
    """The tokens, and how many the model has embeddings of.

    Attributes:
        tokens: by id; all ids are `rows` or more.
        rows: of the model's embedding matrix.
    """

    tokens: Mapping[int, str]
    rows: int

    @classmethod
    def of(cls, backend: Tokenizer, model_config: Mapping[str, Any]) -> Unembedded | None:
        """Return those of a tokenizer and a `config.json`; None where every token has an embedding."""
        rows = model_config.get("vocab_size")
        if not isinstance(rows, int):
            return None
        tokens = {index: token for token, index in backend.get_vocab(with_added_tokens=True).items() if index >= rows}
        return cls(tokens, rows) if tokens else None

    @property
    def warning(self) -> str:
        """What the log says of them when they are loaded."""
        first = min(self.tokens)
        count = f"{len(self.tokens)} token{'s' if len(self.tokens) > 1 else ''}"
        return (
            f"the tokenizer has {count} without an embedding, {self.tokens[first]!r} (id {first}) "
            f"the first: the model has {self.rows} embeddings. Texts that contain one are refused; "
            "resize_token_embeddings of the model would have them encoded"
        )

    def check(self, input_ids: NDArray[np.int32], kind: str) -> None:
        """Raise where a row of `[B, T]` token ids has such a token.

        Args:
            input_ids: `NO_TOKEN`, which is negative, behind a row's tokens.
            kind: what messages call one row: `text`, `query`, `passage` or `pair`.

        Raises:
            RequestError: names the row and the token.
        """
        places = np.argwhere(input_ids >= self.rows)
        if not len(places):
            return
        row, place = places[0]
        token_id = int(input_ids[row, place])
        raise RequestError(
            f"{kind} {row} contains the token {self.tokens[token_id]!r} (id {token_id}), but the model has embeddings "
            f"of {self.rows} tokens only; remove it from the text, or resize the model's embeddings and add it again"
        )
