# SPDX-License-Identifier: Apache-2.0
"""One query's passages in the order of their scores; the same for every class that scores pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flagtriton.remote.inputs import as_text_list

__all__ = ["ranked"]


def ranked(
    query: str,
    passages: Iterable[str],
    top_k: int | None,
    scores_of: Callable[[list[tuple[str, str]]], Sequence[float]],
) -> list[tuple[int, float, str]]:
    """Return the passages best for a query, the best first, each as (index, score, text).

    Args:
        query: one text.
        passages: the candidates.
        top_k: how many to return; None returns all.
        scores_of: one score for each of some pairs of query and passage, which may be none.

    Raises:
        ValueError: the query is no `str`, or `top_k` is below 0.
    """
    if not isinstance(query, str) or (top_k is not None and top_k < 0):
        raise ValueError(f"query is {query!r} and top_k {top_k!r}; expected a str, and at least 0 or None")
    texts, _ = as_text_list(passages, "passages")
    scores = scores_of([(query, text) for text in texts])
    best = sorted(range(len(texts)), key=scores.__getitem__, reverse=True)
    return [(i, scores[i], texts[i]) for i in best[:top_k]]
