# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.packing.ragged`: which rows share a forward pass, and at what lengths."""

from __future__ import annotations

import numpy as np
import pytest

from flagtriton_server.packing.ragged import (
    attention_length,
    batch_ranges,
    packed_length,
    packed_lengths,
    plan_micro_batches,
    token_indices,
)


def plan(lengths: list[int], token_budget: int, *, padded: bool = False) -> list[list[int]]:
    batches = plan_micro_batches(np.array(lengths, dtype=np.int64), token_budget, padded=padded)
    return [batch.tolist() for batch in batches]


both_paths = pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])


@both_paths
def test_the_longest_rows_come_first(padded: bool) -> None:
    assert plan([2, 9, 5], token_budget=100, padded=padded) == [[1, 2, 0]]


@both_paths
def test_rows_of_equal_length_keep_their_order(padded: bool) -> None:
    assert plan([4, 7, 4, 4], token_budget=100, padded=padded) == [[1, 0, 2, 3]]


def test_padding_counts_towards_the_budget_of_padded_rows() -> None:
    # 10 + 1 + 1 tokens, but three rows padded to 10 are 30: the third does not fit into 20.
    assert plan([10, 1, 1], token_budget=20, padded=True) == [[0, 1], [2]]


def test_rows_end_to_end_cost_their_own_tokens_alone() -> None:
    # 10 + 1 + 1 fit into 12, and not into 11
    assert plan([10, 1, 1], token_budget=12) == [[0, 1, 2]]
    assert plan([10, 1, 1], token_budget=11) == [[0, 1], [2]]


def test_every_packed_batch_has_the_whole_budget() -> None:
    # 7 + 3 fill 10, then 3 + 3 + 2; what the first batch spent does not count for the second
    assert plan([7, 3, 3, 3, 2], token_budget=10) == [[0, 1], [2, 3, 4]]


def test_rows_may_be_made_packed_without_saying_so() -> None:
    assert [batch.tolist() for batch in plan_micro_batches(np.array([9, 2, 1]), 12)] == [[0, 1, 2]]


@both_paths
def test_a_batch_may_fill_the_budget_exactly(padded: bool) -> None:
    assert plan([5, 5, 5, 5], token_budget=10, padded=padded) == [[0, 1], [2, 3]]


@both_paths
def test_one_token_over_the_budget_starts_a_new_batch(padded: bool) -> None:
    assert plan([5, 5], token_budget=9, padded=padded) == [[0], [1]]


def test_shorter_rows_share_a_batch_in_greater_number() -> None:
    # budget 8: two rows of 4, then four rows of 2, with nothing to pad
    assert plan([2, 4, 2, 4, 2, 2], token_budget=8) == [[1, 3], [0, 2, 4, 5]]


@both_paths
def test_a_row_longer_than_the_budget_runs_alone(padded: bool) -> None:
    assert plan([50, 3, 3], token_budget=10, padded=padded) == [[0], [1, 2]]


@both_paths
def test_rows_without_tokens_are_in_no_batch(padded: bool) -> None:
    assert plan([0, 3, 0], token_budget=10, padded=padded) == [[1]]


@both_paths
@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_nothing_to_run_is_no_batch(lengths: list[int], padded: bool) -> None:
    assert plan(lengths, token_budget=10, padded=padded) == []


@both_paths
@pytest.mark.parametrize("token_budget", [1, 8, 33, 1000])
def test_every_row_that_has_tokens_is_in_one_batch(token_budget: int, padded: bool) -> None:
    lengths = [3, 0, 17, 1, 1, 40, 8, 0, 17, 2]
    batches = plan(lengths, token_budget, padded=padded)
    assert sorted(row for batch in batches for row in batch) == [0, 2, 3, 4, 5, 6, 8, 9]


@pytest.mark.parametrize(
    ("costs", "ranges"),
    [
        ([3, 7, 1, 2], [(0, 2), (2, 4)]),  # 3 + 7 are the budget; then 1 + 2
        ([3, 8, 1, 2], [(0, 1), (1, 3), (3, 4)]),  # 3 + 8 are one too many, 8 + 1 are not, and 2 more would be
        ([1, 30, 1], [(0, 1), (1, 2), (2, 3)]),  # more than the budget, but one has to be taken
        ([30], [(0, 1)]),
        ([], []),
    ],
    ids=str,
)
def test_items_are_taken_in_their_order_while_the_budget_lasts(costs: list[int], ranges: list[tuple[int, int]]) -> None:
    assert list(batch_ranges(np.array(costs, dtype=np.int64), budget=10)) == ranges


def indices(starts: list[int], lengths: list[int]) -> list[int]:
    return token_indices(np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64)).tolist()


def test_runs_of_indices_lie_end_to_end() -> None:
    assert indices([10, 0, 20], [2, 3, 1]) == [10, 11, 0, 1, 2, 20]


def test_starts_of_zero_give_each_tokens_position_in_its_own_text() -> None:
    assert indices([0, 0, 0], [2, 1, 3]) == [0, 1, 0, 0, 1, 2]


def test_a_run_of_no_length_has_no_index() -> None:
    assert indices([5, 7, 1], [0, 2, 0]) == [7, 8]


def test_no_run_is_no_index() -> None:
    assert indices([], []) == []


@pytest.mark.parametrize(
    ("tokens", "filled"),
    [(1, 16), (16, 16), (17, 32), (256, 256), (257, 320), (320, 320), (1024, 1024), (1025, 1280), (4096, 4096)],
)
def test_a_packed_batch_grows_in_steps_of_16_then_64_then_256(tokens: int, filled: int) -> None:
    assert packed_length(tokens) == filled


def test_a_packed_batch_is_never_filled_up_by_more_than_a_step() -> None:
    added = [packed_length(tokens) - tokens for tokens in range(1, 5000)]
    assert min(added) == 0
    assert (max(added[:256]), max(added[256:1024]), max(added[1024:])) == (15, 63, 255)


def test_the_lengths_of_all_batches_within_a_budget_are_few() -> None:
    # 16 to 256 by 16, then 320 and 384: a batch of 330 tokens, the budget, is filled up to 384
    assert packed_lengths(330) == [*range(16, 257, 16), 320, 384]


@pytest.mark.parametrize(
    ("tokens", "padded"),
    [(1, 16), (15, 16), (16, 16), (17, 32), (128, 128), (129, 160), (512, 512), (513, 640), (8192, 8192)],
)
def test_attention_pads_in_steps_of_16_then_32_then_128(tokens: int, padded: int) -> None:
    assert attention_length(np.array([tokens])).tolist() == [padded]


def test_attention_pads_every_text_by_itself() -> None:
    assert attention_length(np.array([200, 130, 17, 16, 1])).tolist() == [224, 160, 32, 16, 16]
