# SPDX-License-Identifier: Apache-2.0
"""Texts for verifying a deployment: a difficult set, or the user's own. Pure."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Final

from flagtriton_tools.errors import ToolError

__all__ = ["DIFFICULT_TEXTS", "pairs_of", "read_texts"]

DIFFICULT_TEXTS: Final = (
    "What is the capital of France?",
    "Paris is the capital and most populous city of France.",
    "",
    " ",
    "\t leading and trailing  white   space \n\n",
    "a",
    "UPPER lower MiXeD, don't stop: it's 3.14159, we've 2,000 of them.",
    "Naïve café, ÅNGSTRÖM and İstanbul; the same decomposed: cafe\u0301",
    "人工智能正在改变世界，向量检索是其中的一部分。",
    "東京は日本の首都です。서울은 대한민국의 수도이다.",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก",
    "emoji 🙂🚀👩‍👩‍👧, symbols ∑∞≠, ligature ﬁ, circled ①, half-width ｶ",
    "zero\u200bwidth soft\u00adhyphen non\u00a0breaking \ufeffmark",
    "special <s> </s> [CLS] [SEP] <mask> <unk> <pad> <bos> <eos> <|endoftext|> <instruct> in the text",
    "def f(x):\n\treturn {'key': x ** 2}  # code, http://example.org/a?b=c&d=%20e",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 4,
    "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 8,
    "The quick brown fox jumps over the lazy dog, again and again and again. " * 40,
)
"""Empty texts, white space, scripts, special tokens as text, and one of about 600 tokens that shorter limits cut."""


def read_texts(file: Path) -> list[str]:
    r"""Return the texts of a file, one on each line. `\n` and `\t` in a line mean a line break and a tab.

    Raises:
        ToolError: the file cannot be read, is not UTF-8, or has no line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(f"--texts {file} cannot be read as UTF-8: {error}") from error
    if not lines:
        raise ToolError(f"--texts {file} has no line; write one text a line")
    return [line.replace("\\n", "\n").replace("\\t", "\t") for line in lines]


def pairs_of(texts: list[str]) -> list[tuple[str, str]]:
    """Return pairs for a reranker: each text as a passage of the first text, and of the text before it."""
    return list(dict.fromkeys([*((texts[0], text) for text in texts), *pairwise(texts)]))
