# SPDX-License-Identifier: Apache-2.0
"""Loads a tokenizer whose code is in the checkpoint, with transformers. Runs that code."""

from __future__ import annotations

from flagtriton_server.tokenizer_loading.loader import LoadedTokenizer

__all__ = ["load_by_own_code"]


def load_by_own_code(checkpoint: str, revision: str | None) -> LoadedTokenizer:
    """Return the tokenizer of a checkpoint whose code is trusted.

    Raises:
        OSError: the checkpoint has no tokenizer.
        ValueError: the code gives no fast tokenizer.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, revision=revision or "main", trust_remote_code=True)
    if not tokenizer.is_fast:
        raise ValueError(f"{checkpoint} has no fast tokenizer; save one as tokenizer.json beside its weights")
    return LoadedTokenizer(
        tokenizer.backend_tokenizer,
        {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        tokenizer.truncation_side,
        bool(tokenizer.clean_up_tokenization_spaces),
    )
