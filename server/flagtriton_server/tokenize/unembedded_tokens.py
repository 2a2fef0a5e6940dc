# SPDX-License-Identifier: Apache-2.0
"""Tokens of a tokenizer that have no embedding in its model. Imports no torch.

Such tokens were added to the tokenizer, but the model was not resized. An example is a padding token, which no text
needs. The checkpoint is served; a text that contains one of these tokens is refused.
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
    """The tokens without an embedding, and the number of embeddings of the model.

    Attributes:
        tokens: token texts by id; all ids are `rows` or more.
        rows: number of rows of the model's embedding matrix.
    """

    tokens: Mapping[int, str]
    rows: int

    @classmethod
    def of(cls, backend: Tokenizer, model_config: Mapping[str, Any]) -> Unembedded | None:
        """Return the tokens without an embedding, given a tokenizer and a `config.json`; None if there are none."""
        rows = model_config.get("vocab_size")
        if not isinstance(rows, int):
            return None
        tokens = {index: token for token, index in backend.get_vocab(with_added_tokens=True).items() if index >= rows}
        return cls(tokens, rows) if tokens else None

    @property
    def warning(self) -> str:
        """The warning for the log when the tokenizer is loaded."""
        first = min(self.tokens)
        count = f"{len(self.tokens)} token{'s' if len(self.tokens) > 1 else ''}"
        return (
            f"the tokenizer has {count} without an embedding, {self.tokens[first]!r} (id {first}) "
            f"the first: the model has {self.rows} embeddings. Texts that contain one are refused; "
            "resize_token_embeddings of the model would have them encoded"
        )

    def check(self, input_ids: NDArray[np.int32], kind: str) -> None:
        """Raise if a row of `[B, T]` token ids has such a token.

        Args:
            input_ids: token ids; `NO_TOKEN`, which is negative, follows the tokens of a row.
            kind: name of a row in messages: `text`, `query`, `passage` or `pair`.

        Raises:
            RequestError: a row has such a token; the message names both.
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
