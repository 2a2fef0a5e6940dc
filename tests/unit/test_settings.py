# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.settings`: what Triton hands to `initialize` becomes typed values, or an error."""

from __future__ import annotations

import json

import pytest

from flagtriton.parameters import ParameterError, write_parameters
from flagtriton_server.settings import (
    EncoderSettings,
    PoolerSettings,
    TokenizerSettings,
    instance_count,
    read_settings,
)


def model_config(**parameters: str) -> str:
    return json.dumps({"parameters": {name: {"string_value": value} for name, value in parameters.items()}})


def test_strings_become_the_types_of_their_fields() -> None:
    config = model_config(checkpoint="a/b", max_length="512", token_budget="4096", trust_remote_code="true")
    assert read_settings(EncoderSettings, config) == EncoderSettings("a/b", 512, 4096, trust_remote_code=True)


def test_what_is_not_given_has_its_default() -> None:
    settings = read_settings(TokenizerSettings, model_config(checkpoint="a/b", max_length="8"))
    assert settings == TokenizerSettings("a/b", 8, None, False, None, "{}{}", None, "{}{}")


def test_an_unknown_parameter_is_refused_by_name() -> None:
    with pytest.raises(ParameterError, match="unknown parameter 'poling_method'; PoolerSettings has pooling_method"):
        read_settings(PoolerSettings, model_config(poling_method="cls"))


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ParameterError, match="max_length"):
        read_settings(TokenizerSettings, model_config(checkpoint="a/b"))


def test_a_configuration_without_parameters_names_what_is_missing() -> None:
    with pytest.raises(ParameterError, match="pooling_method"):
        read_settings(PoolerSettings, "{}")


def test_a_number_that_does_not_parse_says_what_came() -> None:
    with pytest.raises(ParameterError, match="parameter 'max_length' is 'many', expected int"):
        read_settings(TokenizerSettings, model_config(checkpoint="a/b", max_length="many"))


@pytest.mark.parametrize("text", ["True", "1", "yes", ""])
def test_only_true_and_false_are_booleans(text: str) -> None:
    with pytest.raises(ParameterError, match="expected 'true' or 'false'"):
        read_settings(TokenizerSettings, model_config(checkpoint="a/b", max_length="8", trust_remote_code=text))


def test_the_settings_that_were_written_are_read_back() -> None:
    settings = TokenizerSettings("a/b", 8, "main", True, "", "<i>{}\n<q>{}", "für: ", "{}{}")
    assert read_settings(TokenizerSettings, model_config(**write_parameters(settings))) == settings


def test_instances_of_all_groups_are_counted() -> None:
    assert instance_count('{"instance_group": [{"count": 2}, {"count": 3}]}') == 5


def test_a_group_without_a_count_is_one_instance() -> None:
    assert instance_count('{"instance_group": [{"kind": "KIND_CPU"}]}') == 1


def test_no_group_is_one_instance() -> None:
    assert instance_count("{}") == 1
