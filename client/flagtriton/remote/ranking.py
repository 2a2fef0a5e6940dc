# SPDX-License-Identifier: Apache-2.0
"""Passages of one query in the order of their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flagtriton.remote.inputs import as_text_list

__all__ = ["rank_passages"]


def rank_passages(
    query: str,
    passages: Iterable[str],
    top_k: int | None,
    score: Callable[[list[tuple[str, str]]], Sequence[float]],
) -> list[tuple[int, float, str]]:
    """Return the passages with the highest scores, best first, as (index, score, text).

    Args:
        query: the query.
        passages: the candidates.
        top_k: number of passages to return, at most; None returns all.
        score: function that returns one score per pair of query and passage. The list of pairs may be empty.

    Raises:
        TypeError: a passage is no `str`; the message names its index.
        ValueError: the query is no `str`, or `top_k` is below 0.
    """
    if not isinstance(query, str) or (top_k is not None and top_k < 0):
        raise ValueError(f"query is {query!r} and top_k {top_k!r}; expected a str, and at least 0 or None")
    texts, _ = as_text_list(passages, "passages")
    scores = score([(query, text) for text in texts])
    order = sorted(range(len(texts)), key=scores.__getitem__, reverse=True)
    return [(i, scores[i], texts[i]) for i in order[:top_k]]
