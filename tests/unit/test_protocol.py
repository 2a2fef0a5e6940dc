# SPDX-License-Identifier: Apache-2.0
"""Request options and the deployment's parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from flagtriton.options import EmbedOptions, OptionError
from flagtriton.parameters import read_parameters, write_parameters
from flagtriton.protocol import DENSE_VECS, TEXT, Deployment


def read(**parameters: Any) -> EmbedOptions:
    return EmbedOptions.from_parameters(parameters, min_length=2, max_length=512)


def test_default_options_send_nothing() -> None:
    assert EmbedOptions().to_parameters() == {}


def test_only_options_that_differ_are_sent() -> None:
    options = EmbedOptions(max_length=64, normalize=False, truncate="NONE")
    assert options.to_parameters() == {"max_length": 64, "normalize": False, "truncate": "NONE"}


def test_an_empty_instruction_is_sent() -> None:
    assert EmbedOptions(input_type="query", instruction="").to_parameters()["instruction"] == ""


def test_no_parameters_are_the_default_options() -> None:
    assert read() == EmbedOptions()


def test_what_is_sent_is_read_back_equal() -> None:
    options = EmbedOptions(
        max_length=64, input_type="passage", instruction="p: ", normalize=False, truncate_dim=3, truncate="NONE"
    )
    assert read(**options.to_parameters()) == options


@pytest.mark.parametrize("max_length", [2, 512])
def test_max_length_may_be_either_bound(max_length: int) -> None:
    assert read(max_length=max_length).max_length == max_length


@pytest.mark.parametrize("value", [1, 513, -1, 64.0, "64", True])
def test_another_max_length_is_refused_with_the_bounds(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'max_length' is {value!r}; expected a whole number from 2 to 512"):
        read(max_length=value)


@pytest.mark.parametrize("value", ["Query", "document", 1])
def test_another_input_type_is_refused_with_the_choices(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'input_type' is {value!r}; expected one of 'query', 'passage'"):
        read(input_type=value)


@pytest.mark.parametrize("value", [0, 1, "true", "false"])
def test_normalize_is_a_boolean_and_nothing_like_it(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'normalize' is {value!r}; expected true or false"):
        read(normalize=value)


def test_normalize_false_is_read() -> None:
    assert read(normalize=False).normalize is False


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True])
def test_truncate_dim_is_at_least_one(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'truncate_dim' is {value!r}; expected a whole number of at least 1"):
        read(truncate_dim=value)


def test_truncate_dim_has_no_upper_bound() -> None:
    assert read(truncate_dim=10**9).truncate_dim == 10**9


@pytest.mark.parametrize("value", ["end", "START", False])
def test_another_truncate_is_refused_with_the_choices(value: object) -> None:
    with pytest.raises(OptionError, match=f"option 'truncate' is {value!r}; expected one of 'END', 'NONE'"):
        read(truncate=value)


def test_an_instruction_that_is_no_string_is_refused() -> None:
    with pytest.raises(OptionError, match="option 'instruction' is 1; expected a string"):
        read(input_type="query", instruction=1)


def test_an_instruction_needs_an_input_type() -> None:
    with pytest.raises(OptionError, match="'instruction' came without 'input_type'"):
        read(instruction="q: ")


def test_an_unknown_option_is_named_beside_the_known_ones() -> None:
    known = "input_type, instruction, max_length, normalize, truncate, truncate_dim"
    with pytest.raises(OptionError, match=f"unknown option 'maxlength'; this model has {known}"):
        read(maxlength=64)


@pytest.mark.parametrize(
    "name", ["sequence_id", "triton_enable_empty_final_response", "binary_data_output", "priority", "timeout"]
)
def test_what_triton_puts_among_the_parameters_is_passed_over(name: str) -> None:
    assert read(**{name: 1, "max_length": 64}) == EmbedOptions(max_length=64)


def test_every_option_is_known_to_the_reader() -> None:
    allowed: dict[str, Any] = {
        "max_length": 2,
        "input_type": "query",
        "instruction": "",
        "normalize": True,
        "truncate_dim": 1,
        "truncate": "END",
    }
    assert set(allowed) == {field.name for field in dataclasses.fields(EmbedOptions)}
    assert read(**allowed) == EmbedOptions(**allowed)


def test_an_option_error_is_a_value_error() -> None:
    assert issubclass(OptionError, ValueError)


def test_a_deployment_is_read_back_from_its_parameters() -> None:
    deployment = Deployment(
        task="embed",
        model_class="encoder-only-base",
        checkpoint="intfloat/multilingual-e5-large-instruct",
        pooling_method="mean",
        max_length=512,
        precision="bf16",
        device="gpu:0,1",
        hidden_size=1024,
        revision="abc",
        trust_remote_code=True,
        query_instruction="",
        query_instruction_format="Instruct: {}\nQuery: {}",
    )
    assert read_parameters(Deployment, write_parameters(deployment)) == deployment


def test_texts_are_one_column_of_bytes() -> None:
    assert (TEXT.name, TEXT.datatype, TEXT.dims) == ("text", "BYTES", (1,))


def test_embeddings_are_rows_of_float32() -> None:
    assert (DENSE_VECS.name, DENSE_VECS.datatype, DENSE_VECS.dims) == ("dense_vecs", "FP32", (-1,))
