# SPDX-License-Identifier: Apache-2.0
"""The number of first tokens of a text that belong to its prompt, for `include_prompt` false.

The rule is that of sentence-transformers.
"""

from __future__ import annotations

from flagtriton.protocol.tensors import INPUT_IDS
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer

__all__ = ["prompt_length"]


def prompt_length(tokenizer: TextTokenizer, prompt: str, max_length: int) -> int:
    """Return the number of tokens of a prompt alone, with the special tokens before it but without one at the end.

    Args:
        tokenizer: tokenizer of the deployment.
        prompt: text before an input; an empty prompt gives 0.
        max_length: token limit of the texts of the request, which applies to the prompt, too.
    """
    if not prompt:
        return 0
    (answer,) = tokenizer.encode([TextBatch([prompt], max_length)])
    if isinstance(answer, RequestError):
        raise answer
    ids = answer[INPUT_IDS][0]
    return len(ids) - int(tokenizer.is_special(int(ids[-1])))
