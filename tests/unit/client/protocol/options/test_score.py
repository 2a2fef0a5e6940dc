# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.protocol.options.embed`: what a request for scores of pairs may ask for, and the weights of its means."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from flagtriton.protocol.options.checks import OptionError
from flagtriton.protocol.options.score import ScoreOptions, check_weights


def read_score(**parameters: Any) -> ScoreOptions:
    return ScoreOptions.from_parameters(parameters, min_length=2, max_length=512)


def test_default_score_options_send_nothing() -> None:
    assert ScoreOptions().to_parameters() == {}


def test_whole_weights_of_1_are_the_default() -> None:
    assert ScoreOptions(weights=(1, 1, 1)).to_parameters() == {}


def test_weights_are_sent_as_one_string() -> None:
    # a Triton parameter is a string, a whole number or a boolean
    assert ScoreOptions(weights=(1.0, 0.3, 1e-05)).to_parameters() == {"weights": "1.0,0.3,1e-05"}


def test_only_score_options_that_differ_are_sent() -> None:
    options = ScoreOptions(query_max_length=8, normalize=False, bulk=True)
    assert options.to_parameters() == {"query_max_length": 8, "normalize": False, "bulk": True}


def test_no_parameters_are_the_default_score_options() -> None:
    assert read_score() == ScoreOptions()


def test_score_options_that_are_sent_are_read_back_equal() -> None:
    # 0.1 + 0.2 has seventeen digits, none of which may be lost
    options = ScoreOptions(
        query_max_length=8,
        passage_max_length=9,
        weights=(0.1 + 0.2, 0.0, 2.0),
        normalize=False,
        truncate="NONE",
        bulk=True,
    )
    assert read_score(**options.to_parameters()) == options


def test_every_score_option_is_known_to_the_reader() -> None:
    allowed: dict[str, Any] = {
        "query_max_length": 2,
        "passage_max_length": 512,
        "weights": "1,1,1",
        "normalize": True,
        "truncate": "END",
        "bulk": True,
    }
    assert set(allowed) == {field.name for field in dataclasses.fields(ScoreOptions)}
    assert read_score(**allowed) == ScoreOptions(query_max_length=2, passage_max_length=512, bulk=True)


@pytest.mark.parametrize("name", ["query_max_length", "passage_max_length"])
@pytest.mark.parametrize("value", [1, 513, 64.0, "64", True])
def test_another_length_of_either_side_is_refused_with_the_bounds(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"option '{name}' is {value!r}; expected a whole number from 2 to 512"):
        read_score(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("normalize", 1, "expected true or false"),
        ("bulk", "true", "expected true or false"),
        ("truncate", "end", "expected one of 'END', 'NONE'"),
        ("weights", 1, "expected a string"),
    ],
)
def test_another_value_of_a_score_option_is_refused(name: str, value: object, expected: str) -> None:
    with pytest.raises(OptionError, match=f"option '{name}' is {value!r}; {expected}"):
        read_score(**{name: value})


def test_an_unknown_score_option_is_named_beside_the_known_ones() -> None:
    known = "bulk, normalize, passage_max_length, query_max_length, truncate, weights"
    with pytest.raises(OptionError, match=f"unknown option 'max_length'; this model has {known}$"):
        read_score(max_length=64)


def test_triton_s_own_parameters_beside_score_options_are_passed_over() -> None:
    assert read_score(sequence_id=1, truncate="NONE") == ScoreOptions(truncate="NONE")


@pytest.mark.parametrize("text", ["1, 0.3 ,1", "1,.3,1.0", "1e0,3e-1,1"])
def test_weights_may_be_written_as_numbers_are(text: str) -> None:
    assert read_score(weights=text).weights == (1, 0.3, 1)


@pytest.mark.parametrize("text", ["", "1", "1,2", "1,2,3,4", "1,2,x", "1;2;3", "0,0,0", "1,-1,1", "1,nan,1", "1,1,inf"])
def test_other_weights_are_refused_with_a_way_to_write_them(text: str) -> None:
    with pytest.raises(OptionError, match=rf"option 'weights' is '{text}'; .*; send them as '1,0\.3,1'"):
        read_score(weights=text)


@pytest.mark.parametrize("weights", [[1, 0, 0], (0, 0, 1), [0.5, 2, 3]])
def test_three_numbers_of_which_one_is_more_than_0_are_weights(weights: list[float]) -> None:
    checked = check_weights(weights)
    assert checked == tuple(weights)
    assert {type(weight) for weight in checked} == {float}


@pytest.mark.parametrize(
    "weights", [[], [1, 1], [1, 1, 1, 1], [0, 0, 0], [1, -0.1, 1], [1, math.inf, 1], [math.nan, 1, 1]]
)
def test_other_weights_are_shown_and_those_expected_named(weights: list[float]) -> None:
    with pytest.raises(
        ValueError, match="expected three finite numbers, for dense, sparse and ColBERT, none"
    ) as raised:
        check_weights(weights)
    assert str(raised.value).startswith(f"weights are [{', '.join(map(str, weights))}];")


@pytest.mark.parametrize("weights", [0.5, None, ["a", "b", "c"], [None, 1, 1]])
def test_what_are_no_numbers_are_no_weights(weights: Any) -> None:
    with pytest.raises(ValueError, match=r"^weights are .*; expected three finite numbers"):
        check_weights(weights)
