# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.tokenize.distinct_pairs`: each distinct text of a side once, and rows that keep their places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flagtriton.protocol.options.score import ScoreOptions
from flagtriton.protocol.tensors import INPUT_IDS, PASSAGE_IDS, PASSAGE_ROWS, QUERY_IDS, QUERY_ROWS, TOKEN_COUNT
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.distinct_pairs import DistinctTexts, PairBatch
from flagtriton_server.tokenize.text_tokenizer import TextBatch
from tests.support.steps.fake_backend import ids


def batch(pairs: list[tuple[str, str]], max_length: int = 8, **options: Any) -> PairBatch:
    queries, passages = (DistinctTexts.of(texts) for texts in zip(*pairs, strict=True))
    return PairBatch(queries, passages, ScoreOptions(**options), max_length)


def test_texts_that_repeat_are_named_by_the_row_they_came_in_first() -> None:
    distinct = DistinctTexts.of(["a", "b", "a", "c", "b"])
    assert (distinct.texts, distinct.first_rows) == (["a", "b", "c"], [0, 1, 3])
    assert distinct.rows.tolist() == [0, 1, 0, 3, 1]


def test_texts_that_differ_are_each_their_own_row() -> None:
    assert DistinctTexts.of(["a", "A", "a ", ""]).rows.tolist() == [0, 1, 2, 3]


def test_rows_are_int32() -> None:
    assert DistinctTexts.of(["a"]).rows.dtype == np.int32


def test_token_ids_stand_where_their_text_came_first_and_nowhere_else() -> None:
    spread = DistinctTexts.of(["a", "a", "b", "a"]).spread(ids([2, 4, 3], [2, 3]))
    assert spread.tolist() == [[2, 4, 3], [-1, -1, -1], [2, 3, -1], [-1, -1, -1]]
    assert spread.dtype == np.int32


def test_the_distinct_texts_of_each_side_are_to_be_tokenised() -> None:
    assert batch([("q", "a"), ("q", "b"), ("r", "a")]).text_batches == [
        TextBatch(["q", "r"], 8, False, "query"),
        TextBatch(["a", "b"], 8, False, "passage"),
    ]


def test_a_text_on_both_sides_is_tokenised_for_each() -> None:
    assert [side.texts for side in batch([("a", "a")]).text_batches] == [["a"], ["a"]]


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({}, [8, 8]),
        ({"query_max_length": 4}, [4, 8]),
        ({"passage_max_length": 5}, [8, 5]),
        ({"query_max_length": 4, "passage_max_length": 5}, [4, 5]),
    ],
)
def test_each_side_is_cut_at_its_own_length_or_the_deployments(options: dict[str, int], lengths: list[int]) -> None:
    assert [side.max_length for side in batch([("q", "p")], **options).text_batches] == lengths


@pytest.mark.parametrize(("truncate", "refuse"), [("END", False), ("NONE", True)])
def test_longer_texts_of_both_sides_are_refused_where_cutting_is(truncate: str, refuse: bool) -> None:
    assert [side.refuse_longer for side in batch([("q", "p")], truncate=truncate).text_batches] == [refuse, refuse]


def test_each_side_is_answered_with_its_ids_and_rows() -> None:
    queries = {INPUT_IDS: ids([2, 4, 3]), TOKEN_COUNT: np.array([[3]])}
    passages = {INPUT_IDS: ids([2, 5, 6, 3], [2, 3]), TOKEN_COUNT: np.array([[4], [2]])}
    answer = batch([("q", "a"), ("q", "")]).answer(queries, passages)
    assert {spec.name: values.tolist() for spec, values in answer.items()} == {
        QUERY_IDS.name: [[2, 4, 3], [-1, -1, -1]],
        PASSAGE_IDS.name: [[2, 5, 6, 3], [2, 3, -1, -1]],
        QUERY_ROWS.name: [[0], [0]],
        PASSAGE_ROWS.name: [[0], [1]],
    }


@pytest.mark.parametrize(("side", "kind", "row"), [(0, "query", 2), (1, "passage", 1)])
def test_a_refusal_of_a_distinct_text_is_about_the_first_pair_that_has_it(side: int, kind: str, row: int) -> None:
    work = batch([("q", "a"), ("q", "b"), ("r", "a"), ("r", "b")])
    refusal = work.refusal(side, RequestError(f"{kind} 1 has more than 8 tokens", "INVALID_ARG"))
    assert (str(refusal), refusal.code) == (f"{kind} {row} has more than 8 tokens", "INVALID_ARG")
