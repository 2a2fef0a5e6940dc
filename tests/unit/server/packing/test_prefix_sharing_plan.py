# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.packing.prefix_sharing`: how prefix_groups and other texts are laid out in forward passes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from flagtriton_server.packing.prefix_sharing import (
    MIN_PREFIX,
    PrefixGroup,
    Segments,
    find_prefix_groups,
    plan_segments,
    whole_texts,
)
from flagtriton_server.packing.ragged import token_indices


def plan(lengths: list[int], prefix_groups: list[tuple[list[int], int]], token_budget: int) -> list[Segments]:
    given = [PrefixGroup(np.array(rows), prefix) for rows, prefix in prefix_groups]
    return plan_segments(np.array(lengths, dtype=np.int64), given, token_budget)


def written_out(batch: Segments) -> list[tuple[int, int, int, int]]:
    """Return start, length, parent and row of each segment."""
    return list(zip(*(each.tolist() for each in (batch.starts, batch.lengths, batch.parents, batch.rows)), strict=True))


def costs(batches: list[Segments]) -> list[int]:
    return [int(batch.lengths.sum()) for batch in batches]


def rows_of(batches: list[Segments]) -> list[list[int]]:
    return [sorted(batch.rows[batch.rows >= 0].tolist()) for batch in batches]


def test_a_family_is_its_prefix_and_what_each_text_has_behind_it() -> None:
    # texts of 10 and 12 tokens, 8 of them in common: text 0 begins at token 0, text 1 at token 10
    (batch,) = plan([10, 12], [([0, 1], 8)], token_budget=100)
    assert written_out(batch) == [
        (10, 8, -1, -1),  # the prefix, where the longest text has it
        (18, 4, 0, 1),
        (8, 2, 0, 0),
    ]


def test_texts_without_a_family_follow_whole_with_the_longest_first() -> None:
    (batch,) = plan([10, 3, 12, 5], [([0, 2], 8)], token_budget=100)
    assert written_out(batch)[3:] == [(25, 5, -1, 3), (10, 3, -1, 1)]


def test_the_second_familys_texts_stand_behind_the_second_prefix() -> None:
    (batch,) = plan([5, 5, 9, 9], [([0, 1], 4), ([2, 3], 8)], token_budget=100)
    # the greater family, 8 + 1 + 1 tokens, comes before that of 4 + 1 + 1
    assert batch.lengths.tolist() == [8, 1, 1, 4, 1, 1]
    assert batch.parents.tolist() == [-1, 0, 0, -1, 3, 3]
    assert batch.rows.tolist() == [-1, 2, 3, -1, 0, 1]


def test_a_pass_takes_as_many_tokens_as_fit_with_a_prefix_counted_once() -> None:
    # the family has 8 + 2 + 2 tokens, 20 if each text had its own prefix; the whole text has 3
    assert costs(plan([10, 10, 3], [([0, 1], 8)], token_budget=15)) == [15]
    assert costs(plan([10, 10, 3], [([0, 1], 8)], token_budget=14)) == [12, 3]


def test_a_family_that_does_not_fit_is_cut_and_each_part_has_the_prefix() -> None:
    # behind 4 tokens there is room for 4 more: two texts of 2 tokens of their own
    batches = plan([6] * 4, [([0, 1, 2, 3], 4)], token_budget=8)
    assert [batch.lengths.tolist() for batch in batches] == [[4, 2, 2], [4, 2, 2]]
    assert rows_of(batches) == [[0, 1], [2, 3]]


def test_the_longest_texts_of_a_family_go_together() -> None:
    batches = plan([5, 7, 5, 7], [([0, 1, 2, 3], 4)], token_budget=10)
    assert [batch.lengths.tolist() for batch in batches] == [[4, 3, 3], [4, 1, 1]]
    assert rows_of(batches) == [[1, 3], [0, 2]]


def test_behind_a_prefix_as_long_as_the_budget_there_is_room_for_half_of_it() -> None:
    # 12 tokens leave nothing of 12; half the budget is 6, three texts of 2 tokens
    batches = plan([14] * 4, [([0, 1, 2, 3], 12)], token_budget=12)
    assert [batch.lengths.tolist() for batch in batches] == [[12, 2, 2, 2], [14]]


def test_a_text_left_alone_in_its_part_is_whole() -> None:
    batches = plan([6] * 3, [([0, 1, 2], 4)], token_budget=8)
    assert [written_out(batch) for batch in batches] == [
        [(0, 4, -1, -1), (4, 2, 0, 0), (10, 2, 0, 1)],
        [(12, 6, -1, 2)],
    ]


def test_parts_of_a_family_share_a_pass_with_others_where_they_fit() -> None:
    # 4 + 2 + 2 tokens fill one pass; the third text, whole, leaves room for one of 2
    batches = plan([6, 6, 6, 2], [([0, 1, 2], 4)], token_budget=8)
    assert rows_of(batches) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("token_budget", [1, 8, 100])
def test_a_text_longer_than_the_budget_runs_alone(token_budget: int) -> None:
    batches = plan([200, 5], [], token_budget)
    assert rows_of(batches) == [[0], [1]]


def test_texts_without_tokens_are_in_no_pass() -> None:
    (batch,) = plan([0, 10, 0, 10, 3, 0], [([1, 3], 8)], token_budget=100)
    assert rows_of([batch]) == [[1, 3, 4]]


def test_the_lengths_that_are_given_are_left_as_they_are() -> None:
    lengths = np.array([6, 6, 3])
    plan_segments(lengths, [PrefixGroup(np.array([0, 1]), 4)], token_budget=100)
    assert lengths.tolist() == [6, 6, 3]


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_nothing_to_run_is_no_pass(lengths: list[int]) -> None:
    assert plan(lengths, [], token_budget=10) == []


def test_whole_texts_stand_behind_nothing() -> None:
    segments = whole_texts(np.array([2, 0]), np.array([0, 4, 7]), np.array([4, 3, 5]))
    assert written_out(segments) == [(7, 5, -1, 2), (0, 4, -1, 0)]


def test_segments_put_end_to_end_keep_their_own_parents() -> None:
    family = Segments(np.array([0, 8]), np.array([8, 2]), np.array([-1, 0]), np.array([-1, 4]))
    both = Segments.joined([family, family])
    assert both.parents.tolist() == [-1, 0, -1, 2]
    assert (both.starts.tolist(), both.lengths.tolist()) == ([0, 8, 0, 8], [8, 2, 8, 2])
    assert both.rows.tolist() == [-1, 4, -1, 4]


def random_texts(seed: int) -> list[list[int]]:
    """Return 40 texts: some behind one of two prefixes of up to 19 tokens, some alone, some without a token."""
    generator = np.random.default_rng(seed)
    prefixes = [generator.integers(0, 50, generator.integers(1, 20)).tolist() for _ in range(2)]
    beginnings = [[], *prefixes, prefixes[0][:4]]
    own = [generator.integers(0, 50, length).tolist() for length in generator.integers(0, 9, 40)]
    return [[*beginnings[kind], *rest] for kind, rest in zip(generator.integers(0, 4, 40), own, strict=True)]


def rebuilt(batch: Segments, tokens: NDArray[np.int64]) -> dict[int, list[int]]:
    """Return each row's tokens, its parent's first, by the row; a row that comes twice is an error."""
    runs = np.split(tokens[token_indices(batch.starts, batch.lengths)], np.cumsum(batch.lengths)[:-1])
    texts: dict[int, list[int]] = {}
    for run, parent, row in zip(runs, batch.parents.tolist(), batch.rows.tolist(), strict=True):
        if row >= 0:
            assert row not in texts
            texts[row] = [*(runs[parent].tolist() if parent >= 0 else []), *run.tolist()]
    return texts


@pytest.mark.parametrize("token_budget", [1, 10, 30, 90, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_every_text_is_rebuilt_once_from_the_segments_of_all_passes(seed: int, token_budget: int) -> None:
    texts = random_texts(seed)
    tokens, lengths = np.concatenate(texts).astype(np.int64), np.array([len(text) for text in texts])
    prefix_groups = find_prefix_groups(tokens, lengths, longest=100, least=3)
    assert prefix_groups
    parts = [rebuilt(batch, tokens) for batch in plan_segments(lengths, prefix_groups, token_budget)]
    assert sum(map(len, parts)) == sum(1 for text in texts if text)
    together = {row: text for part in parts for row, text in part.items()}
    assert together == {row: text for row, text in enumerate(texts) if text}


@pytest.mark.parametrize("token_budget", [1, 10, 30, 90, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_a_pass_keeps_its_budget_but_for_one_text_or_half_as_much_behind_one_prefix(
    seed: int, token_budget: int
) -> None:
    texts = random_texts(seed)
    tokens, lengths = np.concatenate(texts).astype(np.int64), np.array([len(text) for text in texts])
    for batch in plan_segments(lengths, find_prefix_groups(tokens, lengths, longest=100, least=3), token_budget):
        if batch.lengths.sum() > token_budget:
            assert (batch.parents < 0).sum() == 1  # a long text alone, or one prefix and what stands behind it
            assert batch.lengths[1:].sum() <= token_budget // 2


@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_stands_before_two_texts_or_more_and_has_no_parent(seed: int) -> None:
    texts = random_texts(seed)
    tokens, lengths = np.concatenate(texts).astype(np.int64), np.array([len(text) for text in texts])
    for batch in plan_segments(lengths, find_prefix_groups(tokens, lengths, longest=100, least=3), 60):
        prefixes = np.flatnonzero(batch.rows < 0)
        assert (batch.parents[prefixes] == -1).all()
        assert set(batch.parents.tolist()) - {-1} == set(prefixes.tolist())
        assert all((batch.parents == prefix).sum() >= 2 for prefix in prefixes)


def test_sharing_leaves_fewer_tokens_to_compute() -> None:
    # 1,000 tokens of examples before 64 queries of 20: 1,000 + 64 times 20, where each by itself makes 65,280
    (batch,) = plan([1_020] * 64, [(list(range(64)), 1_000)], token_budget=4_096)
    assert batch.lengths.sum() == 2_280


@pytest.mark.parametrize(("most", "found"), [(50, [40]), (40, [40]), (20, [20]), (MIN_PREFIX, [MIN_PREFIX]), (15, [])])
def test_a_prefix_is_kept_within_what_each_text_may_share(most: int, found: list[int]) -> None:
    texts = [[*range(40), end] for end in (50, 51)]
    prefix_groups = find_prefix_groups(np.concatenate(texts), np.array([41, 41]), 100, most=np.array([most, 60]))
    assert [family.prefix for family in prefix_groups] == found


def test_one_query_is_one_prefix_whatever_its_passages_begin_with() -> None:
    query = [*range(20)]
    texts = [[*query, *range(first, first + 30), end] for first in (100, 200, 300) for end in (7, 8, 9)]
    ids, lengths = np.concatenate(texts), np.full(9, 51)
    (family,) = find_prefix_groups(ids, lengths, 100, most=np.full(9, 20))
    assert (family.prefix, sorted(family.rows.tolist())) == (20, [*range(9)])
    assert len(find_prefix_groups(ids, lengths, 100)) == 3
