# SPDX-License-Identifier: Apache-2.0
"""Generates English-looking texts with a given distribution of lengths.

The same seed gives the same texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Workload", "make_examples", "make_texts"]

_COMMON = tuple(
    "the of and to in is was for on that by with as it at from his an were are which this also be has had first one "
    "their its after new who they two her she been other when time during there into school more may years over only "
    "year most would world city some where between later three state such then national used made known under many "
    "university united while part season team film south both including game music house water history company".split()
)
_RARE = tuple(
    "transportation reorganised thermodynamics hippopotamus embedding infrastructure mitochondria jurisprudence "
    "counterintuitive photosynthesis bioluminescent procrastination".split()
)
_TASK = "Given a question, find the passage that answers it."
_RARE_SHARE = 0.2
"""Share of words that have several word pieces, one in five as in prose."""


@dataclass(frozen=True)
class Workload:
    """Log-normal distribution of the words of a text, clipped at both ends.

    Attributes:
        count: number of texts.
        median_words: median number of words.
        spread: standard deviation of the logarithm of that number; 0 makes all texts equally long.
        least_words: minimum number of words; shorter texts get this length.
        most_words: maximum number of words; longer texts get this length.
    """

    count: int = 2000
    median_words: float = 42.0
    spread: float = 0.75
    least_words: int = 5
    most_words: int = 200
    seed: int = 0


def make_texts(workload: Workload) -> list[str]:
    """Return the texts of a workload."""
    random = np.random.default_rng(workload.seed)
    lengths = np.exp(random.normal(np.log(workload.median_words), workload.spread, workload.count))
    texts = []
    for length in lengths.clip(workload.least_words, workload.most_words).astype(int):
        rare = random.random(length) < _RARE_SHARE
        common_words, rare_words = random.integers(len(_COMMON), size=length), random.integers(len(_RARE), size=length)
        words = np.where(rare, np.array(_RARE)[rare_words], np.array(_COMMON)[common_words])
        texts.append(" ".join(words.tolist()))
    return texts


def make_examples(words: int) -> list[dict[str, str]]:
    """Return few-shot examples of `words` words together, about 100 each: a question and a passage with its answer."""
    texts = make_texts(Workload(count=words // 100 + 1, median_words=100.0, spread=0.0, seed=1))
    cut = " ".join(texts).split()[:words]
    parts = [cut[start : start + 100] for start in range(0, len(cut), 100)]
    return [{"instruct": _TASK, "query": " ".join(part[:10]), "response": " ".join(part[10:])} for part in parts]
