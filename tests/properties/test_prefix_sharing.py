# SPDX-License-Identifier: Apache-2.0
"""Properties of `sharing`: prefixes and own parts, put together, are the texts; nothing is computed more than once."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flagtriton_server.packing.micro_batches import RaggedTexts
from flagtriton_server.packing.prefix_sharing import MIN_PREFIX, Segments, find_prefix_groups, plan_segments
from tests.support.steps.fake_backend import ids

EXAMPLES = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

BUDGETS = st.integers(1, 20) | st.integers(1, 200)
TOKENS = st.sampled_from([0, 1, 65_536])
"""Few enough that texts begin alike; in two bytes the last would be the first."""


@st.composite
def some_texts(draw: st.DrawFn) -> list[list[int]]:
    """Return texts of tokens, many of which begin with one of two or three beginnings."""
    beginnings = [[], *draw(st.lists(st.lists(TOKENS, min_size=1, max_size=12), max_size=2))]
    beginnings.append(beginnings[-1][: draw(st.integers(0, 6))])
    shapes = st.tuples(st.sampled_from(beginnings), st.lists(TOKENS, max_size=6))
    return [[*beginning, *own] for beginning, own in draw(st.lists(shapes, max_size=14))]


TEXTS = some_texts()


def packed(texts: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return `[N]` the tokens of texts end to end, and `[B]` how many each has."""
    tokens = np.array([token for text in texts for token in text], dtype=np.int64)
    return tokens, np.array([len(text) for text in texts], dtype=np.int64)


def planned(texts: list[list[int]], least: int, token_budget: int) -> list[Segments]:
    tokens, lengths = packed(texts)
    return plan_segments(lengths, find_prefix_groups(tokens, lengths, 100, least), token_budget)


def rebuilt(batches: list[Segments], tokens: NDArray[np.int64]) -> dict[int, list[int]]:
    """Return each row's tokens, its parent's first; a row that comes twice is an error."""
    texts: dict[int, list[int]] = {}
    for batch in batches:
        runs = [tokens[a : a + n].tolist() for a, n in zip(batch.starts, batch.lengths, strict=True)]
        for run, parent, row in zip(runs, batch.parents.tolist(), batch.rows.tolist(), strict=True):
            if row >= 0:
                assert row not in texts
                texts[row] = [*(runs[parent] if parent >= 0 else []), *run]
    return texts


@EXAMPLES
@given(texts=TEXTS, least=st.integers(1, 6), longest=st.integers(1, 18), data=st.data())
def test_a_family_begins_alike_within_what_each_of_its_texts_may_share(
    texts: list[list[int]], least: int, longest: int, data: st.DataObject
) -> None:
    most = data.draw(st.none() | st.lists(st.integers(0, 18), min_size=len(texts), max_size=len(texts)))
    limits = None if most is None else np.array(most, dtype=np.int64)
    members = []
    for family in find_prefix_groups(*packed(texts), longest, least, limits):
        rows, prefix = family.rows.tolist(), family.prefix
        assert len(rows) >= 2
        assert least <= prefix
        assert all(prefix < len(texts[row]) <= longest for row in rows)
        assert len({tuple(texts[row][:prefix]) for row in rows}) == 1
        assert most is None or all(prefix <= most[row] for row in rows)
        members += rows
    assert len(set(members)) == len(members)


@EXAMPLES
@given(texts=TEXTS, least=st.integers(1, 6), order=st.randoms(use_true_random=False))
def test_families_do_not_depend_on_the_order_of_the_texts(texts: list[list[int]], least: int, order: Random) -> None:
    def found(listed: list[list[int]]) -> list[tuple[int, list[list[int]]]]:
        prefix_groups = find_prefix_groups(*packed(listed), 100, least)
        return sorted((family.prefix, sorted(listed[row] for row in family.rows)) for family in prefix_groups)

    shuffled = [*texts]
    order.shuffle(shuffled)
    assert found(shuffled) == found(texts)


@EXAMPLES
@given(texts=TEXTS, least=st.integers(1, 3))
def test_neighbours_that_begin_alike_are_not_both_left_alone(texts: list[list[int]], least: int) -> None:
    prefix_groups = find_prefix_groups(*packed(texts), 100, least)
    alone = set(range(len(texts))) - {row for family in prefix_groups for row in family.rows.tolist()}
    for a, b in pairwise(sorted(range(len(texts)), key=texts.__getitem__)):
        if min(len(texts[a]), len(texts[b])) > least and texts[a][:least] == texts[b][:least]:
            assert not {a, b} <= alone


@EXAMPLES
@given(texts=TEXTS, least=st.integers(1, 6), token_budget=BUDGETS)
def test_every_text_is_put_together_once_from_the_segments_of_all_passes(
    texts: list[list[int]], least: int, token_budget: int
) -> None:
    batches = planned(texts, least, token_budget)
    assert rebuilt(batches, packed(texts)[0]) == {row: text for row, text in enumerate(texts) if text}


@EXAMPLES
@given(texts=TEXTS, least=st.integers(1, 6), token_budget=BUDGETS)
def test_a_parent_stands_before_its_children_two_or_more_and_has_none_itself(
    texts: list[list[int]], least: int, token_budget: int
) -> None:
    for batch in planned(texts, least, token_budget):
        parents, rows = batch.parents.tolist(), batch.rows.tolist()
        assert min(batch.lengths) > 0
        assert all(parent < place for place, parent in enumerate(parents))
        assert all(parents[parent] == -1 for parent in parents if parent >= 0)
        prefixes = {place for place, row in enumerate(rows) if row < 0}
        assert {parent for parent in parents if parent >= 0} == prefixes
        assert all(parents.count(prefix) >= 2 for prefix in prefixes)


@EXAMPLES
@given(texts=TEXTS, least=st.integers(1, 6), token_budget=BUDGETS)
def test_a_pass_keeps_its_budget_but_for_one_text_or_half_as_much_behind_one_prefix(
    texts: list[list[int]], least: int, token_budget: int
) -> None:
    batches = planned(texts, least, token_budget)
    for batch in batches:
        if batch.lengths.sum() > token_budget:
            assert (batch.parents < 0).sum() == 1
            assert batch.lengths[1:].sum() <= token_budget // 2


@EXAMPLES
@given(texts=TEXTS, least=st.integers(1, 6), token_budget=BUDGETS)
def test_sharing_never_computes_more_tokens_and_where_all_fit_each_prefix_once(
    texts: list[list[int]], least: int, token_budget: int
) -> None:
    tokens, lengths = packed(texts)
    prefix_groups = find_prefix_groups(tokens, lengths, 100, least)
    computed = [sum(int(batch.lengths.sum()) for batch in planned(texts, least, n)) for n in (token_budget, 10_000)]
    assert computed[0] <= len(tokens)
    assert computed[1] == len(tokens) - sum((len(family.rows) - 1) * family.prefix for family in prefix_groups)


@EXAMPLES
@given(
    texts=st.lists(some_texts().map(lambda rows: [*rows, [0]]), min_size=1, max_size=3),
    before=st.integers(0, MIN_PREFIX),
    token_budget=BUDGETS,
    max_shared_length=st.sampled_from([0, MIN_PREFIX + 4, 100]),
    data=st.data(),
)
def test_texts_of_several_requests_are_put_together_as_they_came(
    texts: list[list[list[int]]], before: int, token_budget: int, max_shared_length: int, data: st.DataObject
) -> None:
    requests = [[[7] * before + row for row in rows] for rows in texts]
    rows = [row for request in requests for row in request]
    most = data.draw(st.none() | st.lists(st.integers(0, 30), min_size=len(rows), max_size=len(rows)))
    ragged = RaggedTexts.of([ids(*request) for request in requests])
    limits = None if most is None else np.array(most, dtype=np.int64)
    batches = [*ragged.segments(token_budget, max_shared_length=max_shared_length, most_shared=limits)]
    assert rebuilt(batches, ragged.input_ids) == {row: text for row, text in enumerate(rows) if text}
    for batch in batches:
        for row, parent in zip(batch.rows.tolist(), batch.parents.tolist(), strict=True):
            if row >= 0 and parent >= 0:
                assert len(rows[row]) <= max_shared_length
                assert MIN_PREFIX <= batch.lengths[parent] <= (most[row] if most else max_shared_length)
