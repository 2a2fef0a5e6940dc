# SPDX-License-Identifier: Apache-2.0
"""Plans which texts share a prefix, so that a causal model computes it only once: pure arithmetic over token ids.

A causal model's keys and values of a prefix do not depend on the tokens after it. A micro-batch therefore holds the
prefix as one run of tokens, and only the rest of each text that begins with it. Prefix sharing serves queries with the
same instruction, or with the same thousand tokens of few-shot examples.
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
"""Smallest number of tokens of a prefix. For a shorter prefix, the second attention costs as much as sharing saves."""


@dataclass(frozen=True)
class PrefixGroup:
    """Texts that share a prefix.

    Attributes:
        rows: `[M]` indices of the texts, two or more.
        prefix: number of tokens of the prefix; every text has at least one token more.
    """

    rows: NDArray[np.int64]
    prefix: int


@dataclass(frozen=True)
class Segments:
    """The content of one forward pass: S runs of tokens, end to end.

    Attributes:
        starts: `[S]` index of the first token of each segment among the tokens of all texts.
        lengths: `[S]` number of tokens of each segment.
        parents: `[S]` the segment whose tokens precede those of this segment, or -1.
        rows: `[S]` the text that ends with the segment; -1 for a prefix.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    parents: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[Segments]) -> Segments:
        """Return the segments of several objects, in that order, as one."""
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
    """Return the groups of texts that save tokens with a shared prefix; a text belongs to at most one group.

    Texts are sorted by their tokens, so that texts with a common beginning are neighbours. Neighbours are then joined,
    pairs with the longest common prefix first. A join happens only if it saves more tokens than it gives up.

    Args:
        input_ids: `[N]` tokens of all texts, end to end.
        lengths: `[B]` number of tokens of each text.
        longest: a text with more tokens shares no prefix.
        least: smallest number of tokens of a prefix.
        most: `[B]` largest number of tokens of each text that may belong to a prefix; None for all but the last.
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
    """Return the segments of each forward pass: as many tokens as fit the budget, with each prefix counted once.

    A group that does not fit is split, and each part computes the prefix again. A part may always hold half the budget
    of tokens after its prefix, even if both together then exceed the budget.

    Args:
        lengths: `[B]` number of tokens of each text; a text without tokens is in no pass.
        prefix_groups: groups from `find_prefix_groups`.
        token_budget: largest number of tokens of one pass.
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
    """Return texts that share no prefix, one segment each.

    Args:
        rows: `[S]` indices of the texts.
        starts: `[B]` index of the first token of each text among the tokens of all texts.
        lengths: `[B]` number of tokens of each text.
    """
    return Segments(starts[rows], lengths[rows], np.full(len(rows), -1), rows)


def _common(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Return the length of the common prefix of two texts; each text keeps at least one token after it."""
    most = min(len(a), len(b)) - 1
    different = np.flatnonzero(a[:most] != b[:most])
    return int(different[0]) if len(different) else most


def _united(common: NDArray[np.int64], least: int) -> Iterator[tuple[int, int, int]]:
    """Yield start, stop and prefix length of runs of neighbours, given the common prefix `[B - 1]` of each pair."""
    stops = {start: start + 1 for start in range(len(common) + 1)}
    starts = {stop: start for start, stop in stops.items()}
    prefixes = dict.fromkeys(stops, 0)  # prefix length of the run that starts at the key

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
    """Yield the segments of a group, split where a budget ends; the prefix comes first, then the longest rest."""
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
