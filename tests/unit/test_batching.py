# SPDX-License-Identifier: Apache-2.0
"""How lists are split into requests."""

from __future__ import annotations

import numpy as np
import pytest

from flagtriton.batching import plan_requests


def plan(sizes: list[int], max_rows: int = 100, max_bytes: int = 1000) -> list[list[int]]:
    requests = plan_requests(np.array(sizes, dtype=np.int64), max_rows=max_rows, max_bytes=max_bytes)
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
