# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.positions`: how many tokens a position table holds, and which row each token reads."""

from __future__ import annotations

import numpy as np
import pytest

from flagtriton_server.positions import counts_positions_behind_padding, packed_positions, position_capacity


def test_bert_has_a_token_for_each_row_of_its_table() -> None:
    assert position_capacity({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}) == 512


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"])
def test_robertas_family_starts_behind_the_padding_id(model_type: str) -> None:
    # pad id 1: rows 0 and 1 are never used, and 514 - 2 = 512
    assert position_capacity({"model_type": model_type, "max_position_embeddings": 514, "pad_token_id": 1}) == 512


def test_the_padding_id_decides_how_many_rows_are_lost() -> None:
    # pad id 0: only row 0 is never used
    assert position_capacity({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}) == 513


@pytest.mark.parametrize("config", [{}, {"pad_token_id": None}])
def test_a_padding_id_that_is_not_given_is_one(config: dict[str, None]) -> None:
    assert position_capacity({"model_type": "xlm-roberta", "max_position_embeddings": 514, **config}) == 512


@pytest.mark.parametrize("rows", [None, -1, 0, "512"])
def test_a_table_without_a_size_sets_no_limit(rows: object) -> None:
    assert position_capacity({"model_type": "bert", "max_position_embeddings": rows}) is None


def test_a_configuration_that_names_no_table_sets_no_limit() -> None:
    assert position_capacity({"model_type": "t5"}) is None


def positions(texts: list[list[int]], padding_id: int | None) -> list[list[int]]:
    lengths = np.array([len(text) for text in texts])
    packed = packed_positions(np.concatenate(texts).astype(np.int64), lengths, padding_id)
    return [part.tolist() for part in np.split(packed, np.cumsum(lengths)[:-1])]


def test_every_text_counts_from_zero() -> None:
    assert positions([[5, 6, 7], [5], [8, 9]], padding_id=None) == [[0, 1, 2], [0], [0, 1]]


def test_robertas_texts_each_count_from_behind_the_padding_id() -> None:
    assert positions([[5, 6, 7], [5], [8, 9]], padding_id=1) == [[2, 3, 4], [2], [2, 3]]


def test_a_padding_id_inside_a_text_is_passed_over_and_gets_that_id_for_its_position() -> None:
    # transformers' create_position_ids_from_input_ids: cumsum of (id != 1), times (id != 1), plus 1
    assert positions([[5, 1, 7], [1, 8], [9, 1]], padding_id=1) == [[2, 1, 3], [1, 2], [2, 1]]


def test_a_text_of_padding_ids_alone_has_no_other_position() -> None:
    assert positions([[1, 1], [5]], padding_id=1) == [[1, 1], [2]]


def test_where_padding_ids_have_positions_they_count_like_any_token() -> None:
    assert positions([[5, 0, 7], [0, 8]], padding_id=None) == [[0, 1, 2], [0, 1]]


def test_the_padding_id_is_where_counting_begins() -> None:
    assert positions([[5, 6]], padding_id=0) == [[1, 2]]


@pytest.mark.parametrize(("model_type", "behind"), [("xlm-roberta", True), ("camembert", True), ("bert", False)])
def test_only_robertas_family_counts_behind_the_padding_id(model_type: str, behind: bool) -> None:
    assert counts_positions_behind_padding({"model_type": model_type}) is behind
