# SPDX-License-Identifier: Apache-2.0
"""Comparisons of answers, one row of the report each. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Check", "Limits", "compare_ids", "compare_numbers", "compare_vectors", "compare_weights", "skipped"]

_SHOWN = 40


@dataclass(frozen=True)
class Limits:
    """Differences that the precision of a deployment allows.

    Attributes:
        cosine: lowest cosine of two vectors.
        difference: largest difference of a component of unit vectors and of lexical weights; None has no limit.
        score: largest difference of a reranker's logits, as a share of the largest logit (of 1 if that is larger).
    """

    cosine: float
    difference: float | None
    score: float

    @classmethod
    def of(cls, precision: str) -> Limits:
        """Return the limits of a deployment's precision. `auto` gets those of half precision, as it may be one."""
        return _FULL if precision == "fp32" else _HALF


_FULL: Final = Limits(cosine=0.99999, difference=1e-5, score=1e-4)
_HALF: Final = Limits(cosine=0.999, difference=None, score=0.05)


@dataclass(frozen=True)
class Check:
    """One row of the report.

    Attributes:
        what: outputs that are compared, and the reference.
        ok: True if they are equal within the limits; None if nothing was compared, and `detail` says why.
        compared: number of texts or pairs.
        cosine: lowest cosine, for vectors.
        difference: largest difference, for numbers.
        detail: first mismatch, or a remark.
    """

    what: str
    ok: bool | None
    compared: int = 0
    cosine: float | None = None
    difference: float | None = None
    detail: str = ""


def skipped(what: str, why: str) -> Check:
    """Return the row of a comparison that was not made."""
    return Check(what, None, detail=why)


def compare_ids(what: str, texts: Sequence[str], ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> Check:
    """Compare token ids, which must be equal."""
    for index, (text, mine, other) in enumerate(zip(texts, ours, theirs, strict=True)):
        if mine != other:
            place = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), -1)
            where = f"from token {place} on" if place >= 0 else "at the end"
            detail = f"text {index} {_short(text)}: {len(mine)} tokens served, {len(other)} expected, unlike {where}"
            return Check(what, False, len(texts), detail=detail)
    return Check(what, True, len(texts))


def compare_vectors(
    what: str, texts: Sequence[str], ours: NDArray[np.float32], theirs: NDArray[np.float32], limits: Limits
) -> Check:
    """Compare unit vectors `[B, D]` each."""
    if ours.shape != theirs.shape:
        return Check(what, False, len(texts), detail=f"{ours.shape[-1]} components served, {theirs.shape[-1]} expected")
    if not np.isfinite(ours).all():
        return Check(what, False, len(texts), detail="served vectors are not finite")
    mine, other = ours.astype(np.float64), theirs.astype(np.float64)
    norms = np.linalg.norm(mine, axis=-1) * np.linalg.norm(other, axis=-1)
    cosines = (mine * other).sum(axis=-1) / np.maximum(norms, 1e-12)
    differences = np.abs(mine - other).max(axis=-1)
    wrong = cosines < limits.cosine
    if limits.difference is not None:
        wrong |= differences > limits.difference
    worst = int(np.argmax(differences))
    detail = f"text {worst} {_short(texts[worst])}" if wrong.any() else ""
    return Check(what, not wrong.any(), len(texts), float(cosines.min()), float(differences.max()), detail)


def compare_weights(
    what: str,
    texts: Sequence[str],
    ours: Sequence[Mapping[int, float]],
    theirs: Sequence[Mapping[int, float]],
    limits: Limits,
) -> Check:
    """Compare lexical weights by token id. A missing weight counts as 0."""
    largest, worst = 0.0, 0
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        found = max((abs(mine.get(key, 0.0) - other.get(key, 0.0)) for key in {*mine, *other}), default=0.0)
        if not found <= largest:  # also true if `found` is nan
            largest, worst = found, index
    limit = 0.05 if limits.difference is None else 10 * limits.difference
    ok = bool(largest <= limit)
    return Check(what, ok, len(texts), None, largest, "" if ok else f"text {worst} {_short(texts[worst])}")


def compare_numbers(
    what: str, pairs: Sequence[tuple[str, str]], ours: NDArray[np.float32], theirs: NDArray[np.float32], limits: Limits
) -> Check:
    """Compare scores `[P]` each."""
    differences = np.abs(ours.astype(np.float64) - theirs)
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    ok = bool(differences[worst] <= limits.score * max(1.0, float(np.abs(theirs).max())))
    detail = "" if ok else f"pair {worst} {_short(pairs[worst][0])} with {_short(pairs[worst][1])}"
    return Check(what, ok, len(pairs), None, float(differences[worst]), detail)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
