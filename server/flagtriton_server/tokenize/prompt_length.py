# SPDX-License-Identifier: Apache-2.0
"""How many of a text's first tokens are its prompt's: sentence-transformers' rule for `include_prompt` false."""

from __future__ import annotations

from flagtriton.protocol.tensors import INPUT_IDS
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer

__all__ = ["prompt_length"]


def prompt_length(tokenizer: TextTokenizer, prompt: str, max_length: int) -> int:
    """Return the tokens of a prompt by itself, special ones before it included; one special token at the end is not.

    Args:
        tokenizer: the deployment's.
        prompt: what stands before a text; empty is 0.
        max_length: tokens that texts of the request are cut at, and this is too.
    """
    if not prompt:
        return 0
    (answer,) = tokenizer.encode([TextBatch([prompt], max_length)])
    if isinstance(answer, RequestError):
        raise answer
    ids = answer[INPUT_IDS][0]
    return len(ids) - int(tokenizer.is_special(int(ids[-1])))
