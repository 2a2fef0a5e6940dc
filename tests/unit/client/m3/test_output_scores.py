# SPDX-License-Identifier: Apache-2.0
"""The scores that need no server: lexical, ColBERT's, and their weighted mean."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from flagtriton import M3Output
from flagtriton.m3.output import colbert_score, combined_score, lexical_matching_score, lexical_matching_scores
from flagtriton.types import SparseWeights

NOTHING = {"dense_vecs": None, "lexical_weights": None, "colbert_vecs": None}


def texts(count: int, seed: int, vocabulary: int, weights_each: int) -> list[SparseWeights]:
    """Return texts with weights for random token ids; multiples of 1/8 below 8, so that sums are exact."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(vocabulary, size=(count, weights_each))
    values = rng.integers(1, 64, size=ids.shape) / 8
    return [dict(zip(map(str, row), own, strict=True)) for row, own in zip(ids.tolist(), values.tolist(), strict=True)]


def double_loop(one: list[SparseWeights], other: list[SparseWeights]) -> list[list[float]]:
    return [[sum(a[key] * b[key] for key in a if key in b) for b in other] for a in one]


def query(**changes: Any) -> M3Output:
    """Return a text whose scores with `passage()` are 0.5, 2 and 3."""
    outputs = {
        "dense_vecs": np.float32([1, 0]),
        "lexical_weights": {"7": 4.0, "8": 1.0},
        "colbert_vecs": np.float32([[1, 0], [0, 1]]),
    }
    return M3Output({**outputs, **changes})


def passage(**changes: Any) -> M3Output:
    outputs = {
        "dense_vecs": np.float32([0.5, 9]),
        "lexical_weights": {"7": 0.5},
        "colbert_vecs": np.float32([[4, 2], [3, 1]]),
    }
    return M3Output({**outputs, **changes})


# Lexical.


def test_the_lexical_score_sums_products_over_shared_tokens() -> None:
    # 0.5 * 2 + 3 * 0.25
    assert lexical_matching_score({"1": 0.5, "2": 3.0, "3": 9.0}, {"2": 0.25, "1": 2.0, "4": 9.0}) == 1.75


@pytest.mark.parametrize(("one", "other"), [({}, {}), ({"1": 1.0}, {}), ({}, {"1": 1.0}), ({"1": 1.0}, {"2": 1.0})])
def test_texts_that_share_no_token_score_zero(one: SparseWeights, other: SparseWeights) -> None:
    assert lexical_matching_score(one, other) == 0


def test_half_precision_weights_are_multiplied_in_double_precision() -> None:
    # (1 + 2**-10)**2; float16 has no room for the last term.
    weight = np.float16(1 + 2**-10)
    assert lexical_matching_score({"1": weight}, {"1": weight}) == 1 + 2**-9 + 2**-20


def test_half_precision_weights_are_summed_in_double_precision() -> None:
    # In float16, 2,048 + 1 is 2,048.
    assert lexical_matching_score({"1": np.float16(2048), "2": np.float16(1)}, {"1": 1.0, "2": 1.0}) == 2049


@pytest.mark.parametrize("score", [lexical_matching_score, lambda one, other: lexical_matching_scores([one], [other])])
def test_scoring_adds_no_tokens_to_a_defaultdict(score: Any) -> None:
    one, other = defaultdict(int, {"1": 1.0}), defaultdict(int, {"2": 1.0})
    score(one, other)
    assert (list(one), list(other)) == (["1"], ["2"])


def test_the_table_of_scores_is_that_of_a_double_loop() -> None:
    one, other = texts(7, 0, 30, 5), [*texts(9, 1, 30, 8), {}]
    np.testing.assert_array_equal(lexical_matching_scores(one, other), double_loop(one, other))


def test_the_table_is_summed_over_blocks_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = texts(7, 2, 30, 5), texts(9, 3, 30, 8)
    shared = {key for text in one for key in text} & {key for text in other for key in text}
    monkeypatch.setattr("flagtriton.m3.output._BLOCK_COLUMNS", 3)
    assert len(shared) > 3
    assert len(shared) % 3 != 0
    np.testing.assert_array_equal(lexical_matching_scores(one, other), double_loop(one, other))


@pytest.mark.parametrize(("one", "other"), [(0, 0), (0, 2), (2, 0)])
def test_empty_lists_give_an_empty_table(one: int, other: int) -> None:
    assert lexical_matching_scores([{"1": 1.0}] * one, [{"1": 1.0}] * other).shape == (one, other)


def test_texts_without_weights_give_a_table_of_zeros() -> None:
    assert lexical_matching_scores([{}, {"1": 1.0}], [{"2": 1.0}, {}]).tolist() == [[0, 0], [0, 0]]


def test_the_table_holds_double_precision() -> None:
    scores = lexical_matching_scores([{"1": np.float16(2048), "2": np.float16(1)}], [{"1": 1.0, "2": 1.0}])
    assert (scores.dtype, scores.tolist()) == (np.float64, [[2049]])


@pytest.mark.alone
def test_a_million_scores_take_less_than_ten_seconds() -> None:
    one, other = texts(1000, 4, 30_000, 60), texts(1000, 5, 30_000, 60)
    began = time.monotonic()
    scores = lexical_matching_scores(one, other)
    took_s = time.monotonic() - began
    assert took_s < 10
    assert scores[[0, 500, 999], [999, 500, 0]].tolist() == [
        lexical_matching_score(one[i], other[j]) for i, j in [(0, 999), (500, 500), (999, 0)]
    ]


# ColBERT.


def test_the_colbert_score_is_the_mean_over_the_querys_vectors_of_the_best_product() -> None:
    # [1, 0] scores 4 and 3, [0, 1] scores 2 and 1: (4 + 2) / 2.
    assert colbert_score(np.float32([[1, 0], [0, 1]]), np.float32([[4, 2], [3, 1]])) == 3


def test_the_two_sides_of_a_colbert_score_are_not_alike() -> None:
    # [4, 2] scores 4 and 2, [3, 1] scores 3 and 1: (4 + 3) / 2.
    assert colbert_score(np.float32([[4, 2], [3, 1]]), np.float32([[1, 0], [0, 1]])) == 3.5


def test_a_colbert_score_can_be_negative() -> None:
    assert colbert_score(np.float32([[1, 0]]), np.float32([[-2, 5], [-3, 5]])) == -2


def test_a_colbert_score_is_float32() -> None:
    assert type(colbert_score(np.float32([[1.0]]), np.float32([[1.0]]))) is np.float32


@pytest.mark.parametrize("sides", [([[1.0]], np.float32([[1.0]])), (np.float32([[1.0]]), [[1.0]])])
def test_vectors_that_are_no_array_are_refused(sides: Any) -> None:
    with pytest.raises(TypeError, match=r"^expected np.ndarray \(got list\)$"):
        colbert_score(*sides)


# All three.


def test_the_combined_score_is_the_mean_of_dense_sparse_and_colbert() -> None:
    # 1 * 0.5 + 0 * 9 = 0.5; 4 * 0.5 = 2; 3 as above.
    assert combined_score(query(), passage()) == pytest.approx((0.5 + 2 + 3) / 3)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1, 0, 0], 0.5), ([0, 1, 0], 2), ([0, 0, 1], 3), ([2, 1, 1], (1 + 2 + 3) / 4), ((0.5, 0, 0.5), 1.75)],
)
def test_weights_are_of_dense_sparse_and_colbert_in_this_order(weights: Any, expected: float) -> None:
    assert combined_score(query(), passage(), weights) == expected


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("dense_vecs", (2 + 2 * 3) / 3), ("lexical_weights", (0.5 + 2 * 3) / 3), ("colbert_vecs", (0.5 + 2) / 2)],
)
@pytest.mark.parametrize("side", ["query", "passage"])
def test_what_one_side_lacks_does_not_count(missing: str, expected: float, side: str) -> None:
    lacking = {missing: None}
    one, other = (query(**lacking), passage()) if side == "query" else (query(), passage(**lacking))
    assert combined_score(one, other, [1, 1, 2]) == pytest.approx(expected)


def test_a_list_of_one_text_can_be_scored() -> None:
    assert combined_score(query()[0], passage()[:1]) == combined_score(query(), passage())


def test_a_combined_score_is_a_float() -> None:
    assert type(combined_score(query(), passage(), [0, 0, 1])) is float


@pytest.mark.parametrize(("one", "other"), [(2, 1), (1, 2), (0, 1)])
def test_outputs_of_another_number_of_texts_are_refused(one: int, other: int) -> None:
    outputs = [M3Output({**NOTHING, "lexical_weights": [{"7": 1.0}] * count}) for count in (one, other)]
    with pytest.raises(ValueError, match=rf"^outputs of {one} and {other} texts; expected of one each, such as output"):
        combined_score(*outputs)


def test_outputs_that_share_nothing_are_refused() -> None:
    dense = M3Output({**NOTHING, "dense_vecs": np.float32([1, 0])})
    sparse = M3Output({**NOTHING, "lexical_weights": {"7": 1.0}})
    with pytest.raises(ValueError, match="share none of dense, sparse and ColBERT that has a weight above 0"):
        combined_score(dense, sparse)


def test_outputs_that_share_only_what_has_no_weight_are_refused() -> None:
    dense = M3Output({**NOTHING, "dense_vecs": np.float32([1, 0])})
    with pytest.raises(ValueError, match="share none of dense, sparse and ColBERT that has a weight above 0"):
        combined_score(dense, dense, [0, 1, 1])


@pytest.mark.parametrize("weights", [[1, 1], [0, 0, 0], [1, -1, 1], [float("nan"), 1, 1], [float("inf"), 1, 1]])
def test_bad_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="expected three finite numbers"):
        combined_score(query(), passage(), weights)
