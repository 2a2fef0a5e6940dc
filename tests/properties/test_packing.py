# SPDX-License-Identifier: Apache-2.0
"""Properties of `packing`, `ragged_texts`, `positions` and `hidden_states`: no token is lost or moved."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flagtriton_server.errors import RequestError
from flagtriton_server.heads.transfer import from_bytes, to_bytes
from flagtriton_server.packing.micro_batches import RaggedTexts
from flagtriton_server.packing.positions import packed_positions
from flagtriton_server.packing.ragged import (
    attention_length,
    batch_ranges,
    lengths_before,
    packed_length,
    packed_lengths,
    plan_micro_batches,
    token_counts,
    token_indices,
)
from tests.support.steps.fake_backend import ids

EXAMPLES = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

BUDGETS = st.integers(1, 60)
LENGTHS = st.lists(st.just(0) | st.integers(0, 40), max_size=25)
TEXT = st.lists(st.integers(0, 5), max_size=8)
REQUESTS = st.lists(st.lists(TEXT, min_size=1, max_size=4).map(lambda rows: [*rows, [0]]), min_size=1, max_size=4)
"""Token ids of texts; the last of each request has one token at least, so that `ids` has a column."""
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def array(numbers: list[int]) -> NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


@EXAMPLES
@given(lengths=LENGTHS, token_budget=BUDGETS, padded=st.booleans())
def test_every_row_with_tokens_is_in_one_micro_batch_the_longest_first(
    lengths: list[int], token_budget: int, padded: bool
) -> None:
    batches = [batch.tolist() for batch in plan_micro_batches(array(lengths), token_budget, padded=padded)]
    expected = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
    assert [row for batch in batches for row in batch] == expected
    assert all(batches)


@EXAMPLES
@given(lengths=LENGTHS, token_budget=BUDGETS, padded=st.booleans())
def test_a_micro_batch_keeps_the_budget_unless_it_is_one_row_and_takes_all_that_fit(
    lengths: list[int], token_budget: int, padded: bool
) -> None:
    def cost(batch: list[int]) -> int:
        of = [lengths[row] for row in batch]
        return max(of) * len(of) if padded else sum(of)

    batches = [batch.tolist() for batch in plan_micro_batches(array(lengths), token_budget, padded=padded)]
    assert all(cost(batch) <= token_budget or len(batch) == 1 for batch in batches)
    for batch, following in pairwise(batches):
        assert cost([*batch, following[0]]) > token_budget


@EXAMPLES
@given(costs=LENGTHS, budget=st.integers(0, 60))
def test_ranges_follow_each_other_and_each_takes_all_that_fits_or_one(costs: list[int], budget: int) -> None:
    ranges = list(batch_ranges(array(costs), budget))
    edges = [0, *(stop for _, stop in ranges)]
    assert ranges == list(pairwise(edges))
    assert edges[-1] == len(costs)
    for start, stop in ranges:
        assert stop > start
        assert stop == start + 1 or sum(costs[start:stop]) <= budget
        assert stop == len(costs) or sum(costs[start : stop + 1]) > budget


@EXAMPLES
@given(runs=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6))))
def test_indices_are_those_of_each_run_end_to_end(runs: list[tuple[int, int]]) -> None:
    expected = [index for start, length in runs for index in range(start, start + length)]
    found = token_indices(array([start for start, _ in runs]), array([length for _, length in runs]))
    assert found.tolist() == expected


@EXAMPLES
@given(lengths=st.lists(st.integers(1, 40), min_size=1), data=st.data())
def test_before_a_segment_stand_its_parents_tokens_alone(lengths: list[int], data: st.DataObject) -> None:
    parents = data.draw(st.lists(st.integers(-1, len(lengths) - 1), min_size=len(lengths), max_size=len(lengths)))
    expected = [0 if parent < 0 else lengths[parent] for parent in parents]
    assert lengths_before(array(parents), array(lengths)).tolist() == expected


@EXAMPLES
@given(tokens=st.integers(1, 5_000), more=st.integers(0, 300))
def test_lengths_are_filled_up_a_little_and_never_past_a_longer_one(tokens: int, more: int) -> None:
    attention = attention_length(array([tokens, tokens + more]))
    for filled, longer in [(packed_length(tokens), packed_length(tokens + more)), attention.tolist()]:
        assert filled % 16 == 0
        assert tokens <= filled < tokens + max(16, tokens / 4)
        assert filled <= longer
    assert packed_length(packed_length(tokens)) == packed_length(tokens)
    assert attention_length(attention).tolist() == attention.tolist()
    assert packed_lengths(tokens)[-1] == packed_length(tokens)


@EXAMPLES
@given(requests=REQUESTS, data=st.data())
def test_ragged_texts_give_back_every_text_and_every_requests_numbers(
    requests: list[list[list[int]]], data: st.DataObject
) -> None:
    texts = RaggedTexts.of([ids(*rows) for rows in requests])
    rows = [row for request in requests for row in request]
    batch = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    assert texts.lengths.tolist() == [count for request in requests for count in token_counts(ids(*request))]
    assert texts.tokens(array(batch)).tolist() == [token for row in batch for token in rows[row]]
    assert [part.tolist() for part in texts.by_request(texts.lengths)] == [[*map(len, part)] for part in requests]


@EXAMPLES
@given(requests=REQUESTS, data=st.data())
def test_a_second_part_begins_at_its_own_place_in_every_text(
    requests: list[list[list[int]]], data: st.DataObject
) -> None:
    rows = [row for request in requests for row in request]
    starts = data.draw(st.lists(st.integers(0, 9), min_size=len(rows), max_size=len(rows)))
    types = RaggedTexts.of([ids(*request) for request in requests]).types(np.array(starts, dtype=np.int32))
    expected = [int(place >= start) for row, start in zip(rows, starts, strict=True) for place in range(len(row))]
    assert types.tolist() == expected


@EXAMPLES
@given(requests=REQUESTS, token_budget=BUDGETS, padded=st.booleans())
def test_forward_passes_that_share_nothing_hold_every_text_once(
    requests: list[list[list[int]]], token_budget: int, padded: bool
) -> None:
    texts = RaggedTexts.of([ids(*rows) for rows in requests])
    found: dict[int, list[int]] = {}
    for batch in texts.segments(token_budget, padded=padded):
        assert (batch.parents == -1).all()
        for row, start, length in zip(batch.rows.tolist(), batch.starts, batch.lengths, strict=True):
            assert row not in found
            found[row] = texts.input_ids[start : start + length].tolist()
    rows = [row for request in requests for row in request]
    assert found == {row: text for row, text in enumerate(rows) if text}


@EXAMPLES
@given(rows=st.lists(TEXT.filter(bool), min_size=1, max_size=5), padding_id=st.none() | st.integers(0, 5))
def test_positions_of_packed_texts_are_those_of_each_by_itself(rows: list[list[int]], padding_id: int | None) -> None:
    expected = []
    for row in rows:
        place = -1 if padding_id is None else padding_id
        for token in row:
            place += token != padding_id
            expected.append(padding_id if token == padding_id else place)
    lengths = array([len(row) for row in rows])
    assert packed_positions(np.concatenate([array(row) for row in rows]), lengths, padding_id).tolist() == expected


@EXAMPLES
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)),
    dtype=DTYPES,
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_hidden_states_cross_as_bytes_to_the_bit(
    shape: tuple[int, int, int], dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    texts, height, width = shape
    bits = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (texts, height, width * dtype.itemsize)))
    states = bits.to(torch.uint8).view(dtype)  # [B, R, D], NaN and infinities among them
    lengths = data.draw(st.lists(st.integers(0, height), min_size=texts, max_size=texts))
    back = from_bytes(to_bytes(states), array(lengths), dtype)
    assert (back.dtype, back.shape) == (dtype, (sum(lengths), width))
    assert torch.equal(back.view(torch.uint8), states.view(torch.uint8).flatten(0, 1)[: sum(lengths)])


@EXAMPLES
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    dtype=DTYPES,
    width=st.sampled_from([0, 1, 2, 4, 6, 8]),
    more=st.tuples(st.sampled_from([-1, 0, 0, 1]), st.integers(-1, 1)),
)
def test_bytes_are_taken_where_they_hold_the_rows_and_else_refused(
    lengths: list[int], dtype: torch.dtype, width: int, more: tuple[int, int]
) -> None:
    texts = len(lengths) + more[0]
    height = max(0, -(-sum(lengths) // len(lengths)) + more[1])
    shape = (texts, height, width)
    holds = len(lengths) == texts and sum(lengths) <= texts * height and width % dtype.itemsize == 0 and min(shape) > 0
    crossing = np.zeros(shape, dtype=np.uint8)
    if holds:
        assert from_bytes(crossing, array(lengths), dtype).shape == (sum(lengths), width // dtype.itemsize)
        return
    with pytest.raises(RequestError, match=r"^hidden_states is "):
        from_bytes(crossing, array(lengths), dtype)
