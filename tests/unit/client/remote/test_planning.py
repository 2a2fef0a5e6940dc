# SPDX-License-Identifier: Apache-2.0
"""How lists are split into requests."""

from __future__ import annotations

import numpy as np
import pytest

from flagtriton.remote.planning import plan_pairs, plan_requests


def plan(sizes: list[int], max_rows: int = 100, max_bytes: int = 1000, max_area: int | None = None) -> list[list[int]]:
    requests = plan_requests(np.array(sizes, dtype=np.int64), max_rows=max_rows, max_bytes=max_bytes, max_area=max_area)
    return [request.tolist() for request in requests]


def planned_pairs(pairs: list[tuple[str, str]], max_rows: int = 100, max_bytes: int = 1000) -> list[list[int]]:
    """Return the requests of pairs whose texts are all of one byte a character."""
    sizes = [np.array([len(pair[side]) for pair in pairs], dtype=np.int64) for side in (0, 1)]
    requests = plan_pairs([query for query, _ in pairs], *sizes, max_rows=max_rows, max_bytes=max_bytes)
    return [request.tolist() for request in requests]


def test_the_longest_texts_go_first() -> None:
    assert plan([1, 5, 3]) == [[1, 2, 0]]


def test_texts_of_equal_length_keep_their_order() -> None:
    assert plan([2, 7, 2, 7, 2]) == [[1, 3, 0, 2, 4]]


def test_a_request_holds_no_more_than_max_rows() -> None:
    assert plan([5, 4, 3, 2, 1], max_rows=2) == [[0, 1], [2, 3], [4]]


def test_a_request_may_be_filled_to_max_bytes_exactly() -> None:
    assert plan([4, 4, 4], max_bytes=8) == [[0, 1], [2]]


def test_a_request_is_never_one_byte_over_max_bytes() -> None:
    assert plan([4, 4, 4], max_bytes=7) == [[0], [1], [2]]


def test_max_bytes_counts_anew_in_every_request() -> None:
    # Longest first: 6 | 5 + 5 = 10 | 4, as 6 + 5 and 5 + 5 + 4 are over 10.
    assert plan([6, 5, 5, 4], max_bytes=10) == [[0], [1, 2], [3]]


def test_the_tighter_of_both_limits_ends_a_request() -> None:
    # 9 ends by bytes (9 + 3 > 10), the rest by rows.
    assert plan([9, 3, 3, 3, 1], max_rows=2, max_bytes=10) == [[0], [1, 2], [3, 4]]


def test_a_text_over_max_bytes_goes_alone() -> None:
    assert plan([1, 100, 1], max_bytes=10) == [[1], [0, 2]]


def test_several_texts_over_max_bytes_go_one_by_one() -> None:
    assert plan([11, 12], max_bytes=10) == [[1], [0]]


def test_empty_texts_share_a_request() -> None:
    assert plan([0, 0, 0], max_bytes=1) == [[0, 1, 2]]


def test_empty_texts_are_still_limited_by_max_rows() -> None:
    assert plan([0, 0, 0], max_rows=2) == [[0, 1], [2]]


def test_every_row_is_sent_exactly_once() -> None:
    sizes = [number % 7 for number in range(100)]
    requests = plan(sizes, max_rows=8, max_bytes=20)
    assert sorted(row for request in requests for row in request) == list(range(100))


def test_no_texts_make_no_request() -> None:
    assert plan([]) == []


@pytest.mark.parametrize(("max_rows", "max_bytes"), [(0, 10), (-1, 10), (10, 0)])
def test_a_limit_below_one_is_refused(max_rows: int, max_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"{max_rows} rows and {max_bytes} bytes; expected at least 1"):
        plan([1], max_rows=max_rows, max_bytes=max_bytes)


# Areas: rows times the longest text.


def test_a_request_may_be_filled_to_max_area_exactly() -> None:
    # Two rows of 4 are 8; the third would make 12.
    assert plan([4, 4, 4], max_area=8) == [[0, 1], [2]]


def test_a_request_is_never_one_over_max_area() -> None:
    assert plan([4, 4, 4], max_area=7) == [[0], [1], [2]]


def test_short_texts_beside_a_long_one_count_as_long_as_it() -> None:
    # 6 + 1 bytes are 7, but 2 rows of 6 are 12; then 3 rows of 1 are 3.
    assert plan([1, 6, 1, 1], max_area=11) == [[1], [0, 2, 3]]


def test_a_text_over_max_area_goes_alone() -> None:
    assert plan([1, 100, 1], max_area=10) == [[1], [0, 2]]


def test_empty_texts_count_as_one_byte_of_area() -> None:
    assert plan([0, 0, 0], max_area=2) == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("limits", "requests"),
    [
        ({"max_area": 8, "max_rows": 1}, [[0], [1], [2]]),
        ({"max_area": 8, "max_bytes": 4}, [[0], [1], [2]]),
        ({"max_area": 100, "max_rows": 2}, [[0, 1], [2]]),
    ],
)
def test_the_tightest_of_three_limits_ends_a_request(limits: dict[str, int], requests: list[list[int]]) -> None:
    assert plan([4, 4, 4], **limits) == requests


def test_an_area_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        plan([1], max_area=-1)


# Pairs.


def test_pairs_of_one_query_travel_together_the_longest_passage_first() -> None:
    pairs = [("q", "1"), ("r", "22"), ("q", "333"), ("r", "1")]
    assert planned_pairs(pairs, max_rows=2) == [[2, 0], [1, 3]]


def test_queries_keep_the_order_of_their_first_pair() -> None:
    assert planned_pairs([("z", "1"), ("a", "22"), ("z", "1")]) == [[0, 2, 1]]


def test_passages_of_equal_length_keep_their_order() -> None:
    assert planned_pairs([("q", "a"), ("q", "b"), ("q", "c")]) == [[0, 1, 2]]


def test_a_request_of_pairs_holds_no_more_than_max_rows() -> None:
    assert planned_pairs([("q", "1")] * 5, max_rows=2) == [[0, 1], [2, 3], [4]]


def test_a_query_counts_once_for_all_its_pairs() -> None:
    # 4 + 3 + 3 = 10.
    assert planned_pairs([("qqqq", "333"), ("qqqq", "333")], max_bytes=10) == [[0, 1]]
    assert planned_pairs([("qqqq", "333"), ("qqqq", "333")], max_bytes=9) == [[0], [1]]


def test_each_query_counts() -> None:
    # 4 + 3 for the first, 4 + 3 for the second.
    pairs = [("qqqq", "333"), ("rrrr", "333")]
    assert planned_pairs(pairs, max_bytes=14) == [[0, 1]]
    assert planned_pairs(pairs, max_bytes=13) == [[0], [1]]


def test_the_sizes_that_came_stay_as_they_were() -> None:
    passages = np.array([3, 3], dtype=np.int64)
    plan_pairs(["q", "q"], np.array([1, 1], dtype=np.int64), passages, max_rows=9, max_bytes=9)
    assert passages.tolist() == [3, 3]


def test_every_pair_is_sent_exactly_once() -> None:
    pairs = [(f"q{number % 7}", "p" * (number % 5)) for number in range(100)]
    requests = planned_pairs(pairs, max_rows=8, max_bytes=20)
    assert sorted(row for request in requests for row in request) == list(range(100))


def test_no_pairs_make_no_request() -> None:
    assert planned_pairs([]) == []


@pytest.mark.parametrize(("max_rows", "max_bytes"), [(0, 10), (10, 0)])
def test_a_limit_of_pairs_below_one_is_refused(max_rows: int, max_bytes: int) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        planned_pairs([("q", "p")], max_rows=max_rows, max_bytes=max_bytes)


@pytest.mark.parametrize("area", [0, -1])
def test_an_area_below_1_is_refused(area: int) -> None:
    with pytest.raises(ValueError, match=f"an area of {area}; expected at least 1"):
        plan_requests(np.array([1, 2]), max_rows=5, max_bytes=5, max_area=area)
