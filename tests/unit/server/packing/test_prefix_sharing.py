# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.packing.prefix_sharing`: which texts begin alike, by rows of ids that can be compared by eye."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from flagtriton_server.packing.prefix_sharing import MIN_PREFIX, find_prefix_groups

LONGEST = 100

MINE = [1, 2, 3, 4]
YOURS = [1, 2, 5, 6]
"""Two callers' prefixes, which have a beginning of two tokens in common."""


def prefix_groups(texts: list[list[int]], *, least: int = 2, longest: int = LONGEST) -> list[tuple[list[int], int]]:
    """Return the rows, in ascending order, and the prefix of each family."""
    tokens = np.array([token for text in texts for token in text], dtype=np.int64)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    found = find_prefix_groups(tokens, lengths, longest, least)
    return sorted((sorted(family.rows.tolist()), family.prefix) for family in found)


def test_texts_that_begin_alike_are_a_family() -> None:
    assert prefix_groups([[1, 2, 3, 7], [1, 2, 3, 8]]) == [([0, 1], 3)]


def test_texts_with_nothing_in_common_are_in_no_family() -> None:
    assert prefix_groups([[1, 2, 3, 4], [2, 2, 3, 4], [3, 2, 3, 4]]) == []


def test_what_texts_have_in_common_behind_their_first_difference_is_not_shared() -> None:
    assert prefix_groups([[1, 2, 9, 4, 5, 6], [1, 2, 8, 4, 5, 6]]) == [([0, 1], 2)]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 2, 0], [2, 0, 3, 1]])
def test_a_family_need_not_lie_side_by_side(order: list[int]) -> None:
    texts = [[1, 2, 7], [9, 9, 9], [1, 2, 8], [5, 5, 5]]
    (found,) = prefix_groups([texts[place] for place in order])
    assert found == (sorted([order.index(0), order.index(2)]), 2)


def test_tokens_of_a_great_vocabulary_are_told_apart() -> None:
    # 65,537 in two bytes would be 1, and the third text would stand between the others
    assert prefix_groups([[65_537, 2, 5], [65_537, 4, 6], [1, 3, 7]], least=1) == [([0, 1], 1)]


def test_a_text_that_others_begin_with_keeps_its_last_token() -> None:
    assert prefix_groups([[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 5]]) == [([0, 1, 2], 2)]


def test_texts_that_are_equal_share_all_but_their_last_token() -> None:
    assert prefix_groups([[1, 2, 3, 4]] * 3) == [([0, 1, 2], 3)]


def test_a_prefix_has_the_least_number_of_tokens_at_least() -> None:
    texts = [[1, 2, 3, 7], [1, 2, 3, 8]]
    assert prefix_groups(texts, least=3) == [([0, 1], 3)]
    assert prefix_groups(texts, least=4) == []


def test_sixteen_tokens_are_worth_sharing_and_fifteen_are_not() -> None:
    def shared(tokens: int) -> bool:
        texts = [[*range(tokens), 97], [*range(tokens), 98]]
        return bool(find_prefix_groups(np.array([*texts[0], *texts[1]]), np.array([tokens + 1] * 2), LONGEST))

    assert MIN_PREFIX == 16
    assert (shared(16), shared(15)) == (True, False)


def test_a_text_of_no_more_than_the_least_tokens_is_in_no_family() -> None:
    assert prefix_groups([[1, 2], [1, 2], [1, 2, 3], [1, 2, 4]]) == [([2, 3], 2)]


def test_a_text_longer_than_the_longest_shares_nothing() -> None:
    texts = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 3, 7], [1, 2, 3, 8]]
    assert prefix_groups(texts, longest=5) == [([0, 1, 2, 3], 3)]
    assert prefix_groups(texts, longest=4) == [([2, 3], 3)]


@pytest.mark.parametrize("texts", [[], [[]], [[], []], [[1, 2, 3]], [[], [1, 2, 3], []]], ids=str)
def test_fewer_than_two_texts_with_tokens_are_no_family(texts: list[list[int]]) -> None:
    assert prefix_groups(texts) == []


def test_texts_without_tokens_leave_the_others_in_their_family() -> None:
    assert prefix_groups([[], [1, 2, 3], [], [1, 2, 4], []]) == [([1, 3], 2)]


def test_two_callers_with_a_common_beginning_are_a_family_each() -> None:
    # apart: 2 texts less one times 4 tokens, twice, is 8; together: 4 texts less one times 2 tokens is 6
    texts = [[*MINE, 7], [*YOURS, 7], [*MINE, 8], [*YOURS, 8]]
    assert prefix_groups(texts) == [([0, 2], 4), ([1, 3], 4)]


def test_a_short_prefix_of_many_comes_before_a_long_one_of_two() -> None:
    # apart: the first two save 3 and the others 3 times 2, which is 9; all six save 5 times 2
    texts = [[1, 2, 3, 7], [1, 2, 3, 8], *([1, 2, 20 + place] for place in range(4))]
    assert prefix_groups(texts) == [([0, 1, 2, 3, 4, 5], 2)]


def test_one_more_text_does_not_cost_a_family_its_long_prefix() -> None:
    # the first two save 4; all three would save 2 times 2, which is no more
    assert prefix_groups([[*MINE, 7], [*MINE, 8], [1, 2, 9]]) == [([0, 1], 4)]


def test_one_token_more_in_common_does_unite_them() -> None:
    # two save 4 with 4 tokens; all three save 2 times 3
    assert prefix_groups([[*MINE, 7], [*MINE, 8], [1, 2, 3, 9]]) == [([0, 1, 2], 3)]


def test_callers_are_united_where_their_own_prefixes_are_hardly_longer() -> None:
    # apart: 5 tokens saved twice is 10; together: 3 times 4 is 12
    texts = [[1, 2, 3, 4, caller, own] for caller in (5, 6) for own in (7, 8)]
    assert prefix_groups(texts) == [([0, 1, 2, 3], 4)]


def best_saving(common: list[int], least: int) -> int:
    """Return how many tokens the best cut of the order into runs saves, given each two neighbours' common prefix."""
    best = [0] * (len(common) + 2)  # of the first so many texts
    for stop in range(1, len(common) + 2):
        runs = [(start, min(common[start : stop - 1])) for start in range(stop - 1)]
        best[stop] = max(
            [best[stop - 1], *(best[a] + (stop - a - 1) * prefix for a, prefix in runs if prefix >= least)]
        )
    return best[-1]


def neighbours_in_order(texts: list[list[int]], longest: int, least: int) -> list[int]:
    """Return how much each text and the next have in common, in alphabetical order, all but a last token."""
    ordered = sorted(text for text in texts if least < len(text) <= longest)
    common = []
    for a, b in pairwise(ordered):
        most = min(len(a), len(b)) - 1
        common.append(next((place for place in range(most) if a[place] != b[place]), most))
    return common


def random_texts(seed: int) -> list[list[int]]:
    """Return up to 12 texts of up to 9 tokens, of a vocabulary so small that many begin alike."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 10, generator.integers(1, 13))
    return [generator.integers(0, 2, length).tolist() for length in lengths]


@pytest.mark.parametrize("seed", range(30))
def test_a_family_is_valid_whatever_the_texts(seed: int) -> None:
    texts = random_texts(seed)
    found = prefix_groups(texts, least=2, longest=8)
    rows = [row for members, _ in found for row in members]
    assert len(set(rows)) == len(rows)
    for members, prefix in found:
        assert len(members) >= 2
        assert prefix >= 2
        assert len({tuple(texts[row][:prefix]) for row in members}) == 1
        assert all(prefix < len(texts[row]) <= 8 for row in members)


def test_families_save_almost_what_the_best_ones_would() -> None:
    saved, best = [], []
    for seed in range(300):
        texts = random_texts(seed)
        saved.append(sum((len(members) - 1) * prefix for members, prefix in prefix_groups(texts, least=1)))
        best.append(best_saving(neighbours_in_order(texts, LONGEST, least=1), least=1))
    assert sum(best) > 1000
    assert sum(saved) > 0.95 * sum(best)
    assert all(ours >= 0.66 * most for ours, most in zip(saved, best, strict=True))
