# SPDX-License-Identifier: Apache-2.0
"""The effect of `clean_up_tokenization_spaces` on a text that was decoded from tokens. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["without_spaces_before_marks"]

_JOINED: Final = (".", "?", "!", ",", "'", "n't", "'m", "'s", "'ve", "'re")
"""The marks in the order of transformers. A lone apostrophe also loses the space after it."""


def without_spaces_before_marks(text: str) -> str:
    """Return a text without the spaces that WordPiece decoders put before punctuation and contractions."""
    for mark in _JOINED:
        text = text.replace(" ' " if mark == "'" else f" {mark}", mark)
    return text
