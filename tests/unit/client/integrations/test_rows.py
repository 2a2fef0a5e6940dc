# SPDX-License-Identifier: Apache-2.0
"""One text's share of an output, and the checks that all engines have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flagtriton.integrations.rows import (
    FieldNames,
    by_token_id,
    check_count,
    check_weights,
    outputs_of_text,
    text_count,
)
from tests.support.search_engines import two_texts

NOTHING: dict[str, Any] = {"dense_vecs": None, "lexical_weights": None, "colbert_vecs": None}


def test_an_output_counts_its_texts() -> None:
    assert text_count(two_texts()) == 2


def test_any_single_part_is_enough_to_count() -> None:
    assert [text_count({kind: part}) for kind, part in two_texts().items()] == [2, 2, 2]


def test_a_share_holds_the_parts_of_that_text() -> None:
    share = outputs_of_text(two_texts(), 1)
    assert share["dense_vecs"].tolist() == [0.5, 0.5]
    assert share["lexical_weights"] == {"7": 1.0}
    assert share["colbert_vecs"].tolist() == [[0, 1]]


def test_a_share_leaves_out_what_was_not_asked_for() -> None:
    assert outputs_of_text({**two_texts(), "dense_vecs": None, "colbert_vecs": None}, 0).keys() == {"lexical_weights"}


def test_the_output_for_a_lone_text_is_of_one_text() -> None:
    lone = outputs_of_text(two_texts(), 0)
    assert text_count(lone) == 1
    assert outputs_of_text(lone, 0)["lexical_weights"] == {"9": 0.25, "250001": 0.5}
    assert outputs_of_text(lone, 0)["dense_vecs"].tolist() == [1, 0]
    assert outputs_of_text(lone, 0)["colbert_vecs"].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_out_of_range_is_refused_with_the_range(index: int) -> None:
    with pytest.raises(ValueError, match=f"index is {index}, but output is of 2 texts: give one from 0 to 1"):
        outputs_of_text(two_texts(), index)


def test_no_text_has_no_share() -> None:
    with pytest.raises(ValueError, match="of 0 texts"):
        outputs_of_text({"dense_vecs": np.zeros((0, 2), dtype=np.float32)}, 0)


def test_an_output_of_nothing_is_refused_with_what_to_ask_for() -> None:
    with pytest.raises(ValueError, match="return_dense=True"):
        text_count(NOTHING)


def test_parts_of_different_numbers_of_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="'dense_vecs': 2, 'lexical_weights': 1"):
        text_count({**NOTHING, "dense_vecs": np.zeros((2, 2)), "lexical_weights": [{"7": 1.0}]})


def test_one_value_a_text_passes() -> None:
    check_count("ids", [1, 2], two_texts())


def test_too_few_values_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="1 ids came for 2 texts"):
        check_count("ids", [1], two_texts())


@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64, float])
def test_weights_become_python_floats(number: type) -> None:
    weight = check_weights({"9": number(0.25)})["9"]
    assert (type(weight), weight) == (float, 0.25)


@pytest.mark.parametrize("weight", [0.0, -0.5, float("nan"), float("inf")])
def test_a_weight_that_is_no_positive_number_is_refused_by_token(weight: float) -> None:
    with pytest.raises(ValueError, match="token '9' is"):
        check_weights({"7": 1.0, "9": weight})


@pytest.mark.parametrize(("weights", "name"), [(None, "NoneType"), ([{"7": 1.0}], "list")])
def test_what_is_not_one_texts_weights_is_refused_by_type(weights: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"a {name} came: encode with return_sparse=True"):
        check_weights(weights)


def test_token_ids_are_numbers_in_ascending_order() -> None:
    assert list(by_token_id({"250001": 0.5, "9": 0.25, "10": 0.125}).items()) == [(9, 0.25), (10, 0.125), (250001, 0.5)]


def test_the_text_of_a_token_is_no_token_id() -> None:
    with pytest.raises(ValueError, match="'what' is no token id"):
        by_token_id({"what": 1.0})


def test_two_fields_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="a field name of its own"):
        FieldNames(dense_vecs="vector", colbert_vecs="vector")
