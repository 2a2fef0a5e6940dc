# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.packing`: which rows share a forward pass."""

from __future__ import annotations

import numpy as np
import pytest

from flagtriton_server.packing import plan_micro_batches


def plan(lengths: list[int], token_budget: int) -> list[list[int]]:
    return [batch.tolist() for batch in plan_micro_batches(np.array(lengths, dtype=np.int64), token_budget)]


def test_the_longest_rows_come_first() -> None:
    assert plan([2, 9, 5], token_budget=100) == [[1, 2, 0]]


def test_rows_of_equal_length_keep_their_order() -> None:
    assert plan([4, 7, 4, 4], token_budget=100) == [[1, 0, 2, 3]]


def test_padding_counts_towards_the_budget() -> None:
    # 10 + 1 + 1 tokens, but three rows padded to 10 are 30: the third does not fit into 20.
    assert plan([10, 1, 1], token_budget=20) == [[0, 1], [2]]


def test_a_batch_may_fill_the_budget_exactly() -> None:
    assert plan([5, 5, 5, 5], token_budget=10) == [[0, 1], [2, 3]]


def test_one_token_over_the_budget_starts_a_new_batch() -> None:
    assert plan([5, 5], token_budget=9) == [[0], [1]]


def test_shorter_rows_share_a_batch_in_greater_number() -> None:
    # budget 8: two rows of 4, then four rows of 2
    assert plan([2, 4, 2, 4, 2, 2], token_budget=8) == [[1, 3], [0, 2, 4, 5]]


def test_a_row_longer_than_the_budget_runs_alone() -> None:
    assert plan([50, 3, 3], token_budget=10) == [[0], [1, 2]]


def test_rows_without_tokens_are_in_no_batch() -> None:
    assert plan([0, 3, 0], token_budget=10) == [[1]]


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_nothing_to_run_is_no_batch(lengths: list[int]) -> None:
    assert plan(lengths, token_budget=10) == []
