# SPDX-License-Identifier: Apache-2.0
"""Properties of `remote.planning` and `protocol.text`: any list, any limits, every row in one request."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flagtriton.protocol.text import text_sizes, text_tensor
from flagtriton.remote.inputs import as_pair_list, as_text_list
from flagtriton.remote.planning import plan_pairs, plan_requests

EXAMPLES = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)  # derandomize: the same examples in every run

LIMITS = st.integers(1, 6) | st.integers(1, 60)
SIZES = st.lists(st.integers(0, 2), max_size=30) | st.lists(st.integers(0, 9) | st.integers(0, 80), max_size=30)
TEXTS = st.lists(st.sampled_from(["", "\0", "a\0\0", "🙂"]) | st.text(max_size=8), max_size=12)
PAIRS = st.lists(st.tuples(st.sampled_from(["", "q", "é", "a longer query", "人工智能", "🙂\0"]), st.text(max_size=6)))
ANY_TEXTS = st.lists(st.text("aé🙂 \n", max_size=3) | st.text("aé🙂\ud800\udfff", max_size=3), max_size=5)
"""Lone surrogates among them, which have no UTF-8 form."""


def planned(sizes: list[int], max_rows: int, max_bytes: int, max_area: int | None) -> list[list[int]]:
    requests = plan_requests(np.array(sizes, dtype=np.int64), max_rows=max_rows, max_bytes=max_bytes, max_area=max_area)
    return [rows.tolist() for rows in requests]


def planned_pairs(pairs: list[tuple[str, str]], max_rows: int, max_bytes: int) -> list[list[int]]:
    queries, passages = [query for query, _ in pairs], [passage for _, passage in pairs]
    sizes = text_sizes(queries), text_sizes(passages)
    return [rows.tolist() for rows in plan_pairs(queries, *sizes, max_rows=max_rows, max_bytes=max_bytes)]


def in_order(requests: list[list[int]]) -> list[int]:
    """Return the rows of all requests, the first request's first."""
    return [row for rows in requests for row in rows]


def costs_of_pairs(pairs: list[tuple[str, str]], requests: list[list[int]]) -> dict[int, int]:
    """Return what each pair adds to its request: its passage, and its query if no pair before it has that."""
    seen: set[str] = set()
    costs = {}
    for row in in_order(requests):
        query, passage = pairs[row]
        costs[row] = len(passage.encode()) + (0 if query in seen else len(query.encode()))
        seen.add(query)
    return costs


@EXAMPLES
@given(sizes=SIZES, max_rows=LIMITS, max_bytes=LIMITS, max_area=st.none() | LIMITS)
def test_every_text_is_in_exactly_one_request_the_longest_first(
    sizes: list[int], max_rows: int, max_bytes: int, max_area: int | None
) -> None:
    requests = planned(sizes, max_rows, max_bytes, max_area)
    assert all(requests)
    assert in_order(requests) == sorted(range(len(sizes)), key=lambda row: -sizes[row])


@EXAMPLES
@given(sizes=SIZES, max_rows=LIMITS, max_bytes=LIMITS, max_area=st.none() | LIMITS)
def test_a_request_keeps_every_limit_unless_it_is_one_text_and_takes_all_that_fit(
    sizes: list[int], max_rows: int, max_bytes: int, max_area: int | None
) -> None:
    def fits(rows: list[int]) -> bool:
        of = [sizes[row] for row in rows]
        area = len(rows) * max(1, *of, 1)
        return len(rows) <= max_rows and sum(of) <= max_bytes and (max_area is None or area <= max_area)

    requests = planned(sizes, max_rows, max_bytes, max_area)
    assert all(fits(rows) or len(rows) == 1 for rows in requests)
    for rows, following in pairwise(requests):
        assert not fits([*rows, following[0]])


@EXAMPLES
@given(pairs=PAIRS, max_rows=LIMITS, max_bytes=LIMITS)
def test_every_pair_is_in_exactly_one_request_beside_those_of_its_query(
    pairs: list[tuple[str, str]], max_rows: int, max_bytes: int
) -> None:
    requests = planned_pairs(pairs, max_rows, max_bytes)
    first = {query: row for row, (query, _) in reversed([*enumerate(pairs)])}
    assert all(requests)
    assert in_order(requests) == sorted(
        range(len(pairs)), key=lambda row: (first[pairs[row][0]], -len(pairs[row][1].encode()))
    )


@EXAMPLES
@given(pairs=PAIRS, max_rows=LIMITS, max_bytes=LIMITS)
def test_a_request_of_pairs_keeps_both_limits_unless_it_is_one_pair_and_takes_all_that_fit(
    pairs: list[tuple[str, str]], max_rows: int, max_bytes: int
) -> None:
    requests = planned_pairs(pairs, max_rows, max_bytes)
    costs = costs_of_pairs(pairs, requests)

    def fits(rows: list[int]) -> bool:
        return len(rows) <= max_rows and sum(costs[row] for row in rows) <= max_bytes

    assert all(fits(rows) or len(rows) == 1 for rows in requests)
    for rows, following in pairwise(requests):
        assert not fits([*rows, following[0]])


@EXAMPLES
@given(
    sizes=SIZES,
    limits=st.tuples(*[st.integers(-1, 2)] * 3).filter(lambda limits: min(limits) < 1),
)
def test_a_limit_below_one_is_refused_whatever_the_texts(sizes: list[int], limits: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        planned(sizes, *limits)


@EXAMPLES
@given(texts=TEXTS)
def test_texts_become_rows_of_their_utf8_and_sizes_of_that(texts: list[str]) -> None:
    tensor: NDArray[np.object_] = text_tensor(texts)
    assert tensor.shape == (len(texts), 1)
    assert [data.decode() for data in tensor[:, 0]] == texts
    assert text_sizes(texts).tolist() == [len(data) for data in tensor[:, 0]]


@EXAMPLES
@given(texts=ANY_TEXTS)
def test_texts_are_taken_as_they_are_or_the_first_without_a_utf8_form_is_named(texts: list[str]) -> None:
    broken = [row for row, text in enumerate(texts) if any("\ud800" <= character <= "\udfff" for character in text)]
    if not broken:
        assert as_text_list(iter(texts), "texts") == (texts, False)
        return
    with pytest.raises(ValueError, match=rf"^texts\[{broken[0]}\] holds a lone surrogate"):
        as_text_list(iter(texts), "texts")


@EXAMPLES
@given(pairs=st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=6), kind=st.sampled_from([0, 1, 2]))
def test_pairs_are_taken_as_they_are_in_any_collection(pairs: list[tuple[str, str]], kind: int) -> None:
    given_pairs = [pairs, tuple([query, passage] for query, passage in pairs), iter(pairs)][kind]
    assert as_pair_list(given_pairs, "pairs") == (pairs, False)
    for pair in pairs:
        assert as_pair_list(pair, "pair") == ([pair], True)
