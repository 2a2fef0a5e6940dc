# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's outputs as a dict of several texts."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

from flagtriton import M3Output

KEYS = ["dense_vecs", "lexical_weights", "colbert_vecs"]


def of_three(**changes: Any) -> M3Output:
    """Return the outputs of three texts: text i has the dense vector [i, -i], the weight i, and i + 1 vectors."""
    return M3Output(
        {
            "dense_vecs": np.float32([[0, 0], [1, -1], [2, -2]]),
            "lexical_weights": [{"7": 0.0}, {"7": 1.0}, {"7": 2.0}],
            "colbert_vecs": [np.full((rows, 2), rows, np.float32) for rows in (1, 2, 3)],
            **changes,
        }
    )


def of_one() -> M3Output:
    """Return the outputs of a lone text, without lists."""
    return M3Output(
        {
            "dense_vecs": np.float32([3, 4]),
            "lexical_weights": {"7": 0.5},
            "colbert_vecs": np.float32([[1, 2], [3, 4]]),
        }
    )


def texts_in(output: M3Output) -> list[int]:
    """Return which texts' outputs are in there, once each of them agrees."""
    dense = output["dense_vecs"][:, 0].tolist()
    sparse = [weights["7"] for weights in output["lexical_weights"]]
    colbert = [len(vectors) - 1 for vectors in output["colbert_vecs"]]
    assert dense == sparse == colbert
    return [int(number) for number in dense]


def plain(output: M3Output) -> dict[str, Any]:
    """Return an output with lists in place of arrays, through JSON."""
    made: dict[str, Any] = json.loads(json.dumps(output, default=lambda array: array.tolist()))
    return made


# Names as keys.


def test_an_output_is_read_by_its_name() -> None:
    assert of_three()["lexical_weights"] == [{"7": 0.0}, {"7": 1.0}, {"7": 2.0}]


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="dense"):
        of_three()["dense"]


def test_an_output_is_a_dict() -> None:
    output = of_three()
    assert isinstance(output, dict)
    assert [list(output), list(dict(**output)), [name for name, _ in output.items()]] == [KEYS] * 3


# Numbers and slices as keys.


@pytest.mark.parametrize(("index", "text"), [(0, 0), (2, 2), (-1, 2), (-3, 0), (np.int64(1), 1)])
def test_an_integer_gives_the_outputs_of_that_text_in_the_form_for_a_list(index: Any, text: int) -> None:
    output = of_three()[index]
    assert (type(output), list(output)) == (M3Output, KEYS)
    assert texts_in(output) == [text]


@pytest.mark.parametrize("index", [3, -4, 100])
def test_an_integer_beyond_the_texts_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"^text {index} of 3$"):
        of_three()[index]


@pytest.mark.parametrize("index", [0, -1])
def test_no_texts_have_no_first_and_no_last(index: int) -> None:
    with pytest.raises(IndexError, match=f"^text {index} of 0$"):
        of_three()[3:][index]


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, -1), [0, 1]),
        (slice(None), [0, 1, 2]),
        (slice(3, None), []),
        (slice(1, 99), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        (slice(None, None, -1), [2, 1, 0]),
    ],
)
def test_a_slice_gives_the_outputs_of_those_texts(rows: slice, texts: list[int]) -> None:
    output = of_three()[rows]
    assert type(output) is M3Output
    assert texts_in(output) == texts


@pytest.mark.parametrize("key", [0, -1, slice(None), slice(0, 5)])
def test_a_lone_texts_outputs_are_given_in_the_form_for_a_list(key: Any) -> None:
    assert plain(of_one()[key]) == {
        "dense_vecs": [[3, 4]],
        "lexical_weights": [{"7": 0.5}],
        "colbert_vecs": [[[1, 2], [3, 4]]],
    }


@pytest.mark.parametrize("index", [1, -2])
def test_a_lone_text_is_one_text(index: int) -> None:
    with pytest.raises(IndexError, match=f"^text {index} of 1$"):
        of_one()[index]


@pytest.mark.parametrize("missing", KEYS)
@pytest.mark.parametrize("key", [1, slice(0, 2)])
def test_what_was_not_asked_for_stays_none(missing: str, key: Any) -> None:
    output = of_three(**{missing: None})[key]
    assert [name for name in KEYS if output[name] is None] == [missing]


@pytest.mark.parametrize("kept", KEYS)
def test_each_output_alone_tells_how_many_texts_there_are(kept: str) -> None:
    missing = {name: None for name in KEYS if name != kept}
    assert of_three(**missing).text_count == 3


@pytest.mark.parametrize("kept", KEYS)
def test_each_output_of_a_lone_text_counts_one(kept: str) -> None:
    assert M3Output({name: value if name == kept else None for name, value in of_one().items()}).text_count == 1


def test_no_outputs_count_no_texts() -> None:
    assert M3Output(dict.fromkeys(KEYS)).text_count == 0


def test_a_texts_outputs_can_be_taken_again() -> None:
    assert texts_in(of_three()[1:][1][0]) == [2]


# Copies.


@pytest.mark.parametrize(
    "copied",
    [lambda output: pickle.loads(pickle.dumps(output)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_a_copy_is_the_same_kind_with_the_same_outputs(copied: Any) -> None:
    output = copied(of_three())
    assert type(output) is M3Output
    assert plain(output) == plain(of_three())
    assert texts_in(output[1:]) == [1, 2]


def test_a_deep_copy_shares_no_arrays() -> None:
    output = of_three()
    copy.deepcopy(output)["dense_vecs"][:] = 9
    assert texts_in(output) == [0, 1, 2]


def test_an_output_becomes_json_like_any_dict() -> None:
    assert plain(of_three()[1]) == {
        "dense_vecs": [[1, -1]],
        "lexical_weights": [{"7": 1.0}],
        "colbert_vecs": [[[2, 2], [2, 2]]],
    }
