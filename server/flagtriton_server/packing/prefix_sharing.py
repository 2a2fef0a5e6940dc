# SPDX-License-Identifier: Apache-2.0
"""Which texts begin alike, so that a causal model need read their beginning only once: pure arithmetic over token ids.

A causal model's keys and values of a prefix do not depend on what follows. So a micro-batch holds the prefix as one run
of tokens, and of each text that begins with it only the rest. Queries behind one instruction, or behind a thousand
tokens of few-shot examples, are what this is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from flagtriton_server.packing.ragged import batch_ranges

__all__ = ["MIN_PREFIX", "PrefixGroup", "Segments", "find_prefix_groups", "plan_segments", "whole_texts"]

MIN_PREFIX = 16
"""Tokens that a prefix has at least: below it the second attention costs what it saves."""


@dataclass(frozen=True)
class PrefixGroup:
    """Texts that share a prefix.

    Attributes:
        rows: `[M]` which texts, two or more.
        prefix: tokens that they begin with; every text has one more at least.
    """

    rows: NDArray[np.int64]
    prefix: int


@dataclass(frozen=True)
class Segments:
    """What goes through one forward pass: S runs of tokens, end to end.

    Attributes:
        starts: `[S]` where each begins among the tokens of all texts.
        lengths: `[S]` tokens of each.
        parents: `[S]` the segment, if any, that stands before this one's tokens, else -1.
        rows: `[S]` the text that ends with the segment; -1 for a prefix.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    parents: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[Segments]) -> Segments:
        """Return the segments of several, one after another."""
        before = np.cumsum([0] + [len(part.lengths) for part in parts])
        parents = [np.where(part.parents < 0, -1, part.parents + n) for part, n in zip(parts, before, strict=False)]
        return cls(
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate(parents),
            np.concatenate([part.rows for part in parts]),
        )


def find_prefix_groups(
    input_ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    longest: int,
    least: int = MIN_PREFIX,
    most: NDArray[np.int64] | None = None,
) -> list[PrefixGroup]:
    """Return the texts that had better share a prefix, each in one family at most.

    Texts are put in the order of their tokens, where those that begin alike are neighbours. Neighbours are then
    united, those with the longest common prefix first, wherever that saves more tokens than it gives up.

    Args:
        input_ids: `[N]` the tokens of all texts, end to end.
        lengths: `[B]` tokens of each text.
        longest: texts with more tokens share nothing.
        least: tokens of the shortest prefix.
        most: `[B]` how many tokens of each text may be in one; None is all but the last.
    """
    texts = np.split(input_ids, np.cumsum(lengths)[:-1])
    fitting = [row for row in range(len(texts)) if least < len(texts[row]) <= longest]
    order = sorted(fitting, key=lambda row: texts[row].astype(">u4").tobytes())
    common = np.array([_common(texts[a], texts[b]) for a, b in pairwise(order)], dtype=np.int64)
    if most is not None:
        common = np.minimum(common, [min(most[a], most[b]) for a, b in pairwise(order)]).astype(np.int64)
    return [PrefixGroup(np.array(order[start:stop]), prefix) for start, stop, prefix in _united(common, least)]


def plan_segments(
    lengths: NDArray[np.int64], prefix_groups: Sequence[PrefixGroup], token_budget: int
) -> list[Segments]:
    """Return what each forward pass takes: as many tokens as fit the budget, prefixes counted once.

    A family that does not fit is cut, and its prefix computed once a part. A part holds half the budget of tokens
    behind its prefix even where that is so long that they do not fit together.

    Args:
        lengths: `[B]` tokens of each text; those without any are in none.
        prefix_groups: as `find_prefix_groups` gives them.
        token_budget: tokens of one pass.
    """
    starts = np.cumsum(lengths) - lengths
    parts = [part for family in prefix_groups for part in _parts(family, starts, lengths, token_budget)]
    alone = lengths.copy()
    for family in prefix_groups:
        alone[family.rows] = 0
    rows = np.argsort(-alone, kind="stable")[: int(np.count_nonzero(alone))]
    parts.sort(key=lambda part: -int(part.lengths.sum()))
    costs = np.concatenate([[int(part.lengths.sum()) for part in parts], alone[rows]]).astype(np.int64)
    batches = []
    for start, stop in batch_ranges(costs, token_budget):
        singles = rows[max(0, start - len(parts)) : max(0, stop - len(parts))]
        batches.append(Segments.joined([*parts[start:stop], whole_texts(singles, starts, lengths)]))
    return batches


def whole_texts(rows: NDArray[np.int64], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Segments:
    """Return texts that share nothing, a segment each.

    Args:
        rows: `[S]` which of them.
        starts: `[B]` where each text begins among the tokens of all.
        lengths: `[B]` tokens of each.
    """
    return Segments(starts[rows], lengths[rows], np.full(len(rows), -1), rows)


def _common(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Return how many tokens two texts begin with alike, leaving each one of its own."""
    most = min(len(a), len(b)) - 1
    different = np.flatnonzero(a[:most] != b[:most])
    return int(different[0]) if len(different) else most


def _united(common: NDArray[np.int64], least: int) -> Iterator[tuple[int, int, int]]:
    """Yield start, stop and prefix of runs of neighbours, given the common prefix `[B - 1]` of each two."""
    stops = {start: start + 1 for start in range(len(common) + 1)}
    starts = {stop: start for start, stop in stops.items()}
    prefixes = dict.fromkeys(stops, 0)  # of the run that starts there

    def saved(start: int) -> int:
        return (stops[start] - start - 1) * prefixes[start]

    for gap in np.argsort(-common, kind="stable").tolist():
        prefix, left, right = int(common[gap]), starts[gap + 1], gap + 1
        stop = stops[right]
        if prefix >= least and (stop - left - 1) * prefix > saved(left) + saved(right):
            stops[left], starts[stop], prefixes[left] = stop, left, prefix
            del stops[right]
    for start, stop in sorted(stops.items()):
        if stop > start + 1:
            yield start, stop, prefixes[start]


def _parts(
    family: PrefixGroup, starts: NDArray[np.int64], lengths: NDArray[np.int64], token_budget: int
) -> Iterator[Segments]:
    """Yield a family's segments, the prefix first and the longest rest next, cut where a budget ends."""
    rows = family.rows[np.argsort(-lengths[family.rows], kind="stable")]
    own = lengths[rows] - family.prefix
    for start, stop in batch_ranges(own, max(token_budget - family.prefix, token_budget // 2)):
        part = rows[start:stop]
        if len(part) == 1:
            yield whole_texts(part, starts, lengths)
            continue
        yield Segments(
            np.concatenate([starts[part[:1]], starts[part] + family.prefix]),
            np.concatenate([[family.prefix], own[start:stop]]),
            np.concatenate([[-1], np.zeros(len(part), dtype=np.int64)]),
            np.concatenate([[-1], part]),
        )
