# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.protocol.settings`: what Triton hands to `initialize` becomes typed values, or an error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flagtriton.protocol.parameters import (
    VERSION_PARAMETERS,
    ParameterError,
    all_instances,
    instance_count,
    read_settings,
    write_parameters,
)
from flagtriton.protocol.settings import (
    EncoderSettings,
    LayerwiseSettings,
    PoolerSettings,
    TokenizerSettings,
    rows_needed,
)


def told(**parameters: str) -> dict[str, str]:
    """Return what Triton tells a step whose configuration has these parameters."""
    config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
    return {"model_config": json.dumps(config)}


def test_strings_become_the_types_of_their_fields() -> None:
    args = told(checkpoint="a/b", max_length="512", token_budget="4096", trust_remote_code="true")
    assert read_settings(EncoderSettings, args) == EncoderSettings("a/b", 512, 4096, trust_remote_code=True)


def test_an_encoder_sends_all_rows_and_leaves_pooling_to_the_pooler_unless_told() -> None:
    settings = read_settings(EncoderSettings, told(checkpoint="a/b", max_length="8", token_budget="64"))
    assert (settings.rows, settings.pooling_method) == ("all", None)


def test_an_encoder_may_be_told_rows_and_a_pooling() -> None:
    args = told(checkpoint="a/b", max_length="8", token_budget="64", rows="first", pooling_method="cls")
    assert read_settings(EncoderSettings, args) == EncoderSettings("a/b", 8, 64, rows="first", pooling_method="cls")


def test_a_pooler_takes_the_encoder_to_be_on_the_processor_in_auto_precision_unless_told() -> None:
    assert read_settings(PoolerSettings, told(pooling_method="cls")) == PoolerSettings("cls", "auto", "cpu")


def test_a_pooler_is_told_the_encoders_precision_and_device() -> None:
    args = told(pooling_method="mean", precision="bf16", device="gpu")
    assert read_settings(PoolerSettings, args) == PoolerSettings("mean", "bf16", "gpu")


def test_what_is_not_given_has_its_default() -> None:
    settings = read_settings(TokenizerSettings, told(checkpoint="a/b", max_length="8"))
    assert settings == TokenizerSettings("a/b", 8, "encoder-only-base", None, False, None, "{}{}", None, "{}{}", False)


def test_an_unknown_parameter_is_refused_by_name() -> None:
    said = (
        "unknown parameter 'poling_method'; PoolerSettings has checkpoint, device, modules, normalize, pooling_method"
    )
    with pytest.raises(ParameterError, match=said):
        read_settings(PoolerSettings, told(poling_method="cls"))


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ParameterError, match="max_length"):
        read_settings(TokenizerSettings, told(checkpoint="a/b"))


def test_a_configuration_without_parameters_names_what_is_missing() -> None:
    with pytest.raises(ParameterError, match="pooling_method"):
        read_settings(PoolerSettings, {"model_config": "{}"})


def test_a_number_that_does_not_parse_says_what_came() -> None:
    with pytest.raises(ParameterError, match="parameter 'max_length' is 'many', expected int"):
        read_settings(TokenizerSettings, told(checkpoint="a/b", max_length="many"))


@pytest.mark.parametrize("text", ["True", "1", "yes", ""])
def test_only_true_and_false_are_booleans(text: str) -> None:
    with pytest.raises(ParameterError, match="expected 'true' or 'false'"):
        read_settings(TokenizerSettings, told(checkpoint="a/b", max_length="8", trust_remote_code=text))


def test_the_settings_that_were_written_are_read_back() -> None:
    settings = TokenizerSettings("a/b", 8, "decoder-only-icl", "main", True, "", "<i>{}\n<q>{}", "für: ", "{}{}")
    assert read_settings(TokenizerSettings, told(**write_parameters(settings))) == settings


def of_version(folder: Path, version: str, **parameters: str) -> dict[str, str]:
    """Return what Triton tells a version of a step that lies in a folder, whose configuration has these parameters."""
    return {**told(**parameters), "model_repository": str(folder), "model_version": version}


def test_a_version_with_parameters_of_its_own_has_those_alone(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / VERSION_PARAMETERS).write_text('{"pooling_method": "mean"}')
    first, second = (of_version(tmp_path, v, pooling_method="cls", precision="bf16") for v in "12")
    assert read_settings(PoolerSettings, first) == PoolerSettings("cls", "bf16")
    assert read_settings(PoolerSettings, second) == PoolerSettings("mean")


@pytest.mark.parametrize("text", ["[]", "{", "\xff"])
def test_parameters_of_a_version_that_cannot_be_read_name_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / VERSION_PARAMETERS).write_text(text, encoding="latin-1")
    with pytest.raises(ParameterError, match=f"{tmp_path}/2/parameters.json is no object of strings"):
        read_settings(PoolerSettings, of_version(tmp_path, "2", pooling_method="cls"))


def test_a_checkpoint_may_lie_in_the_models_folder_wherever_that_is(tmp_path: Path) -> None:
    args = of_version(tmp_path, "1", checkpoint="$$TRITON_MODEL_DIRECTORY/1/checkpoint", max_length="8")
    assert read_settings(TokenizerSettings, args).checkpoint == f"{tmp_path}/1/checkpoint"


def test_parameters_of_tritons_own_are_passed_over() -> None:
    args = told(pooling_method="cls", EXECUTION_ENV_PATH="/env.tar.gz")
    assert read_settings(PoolerSettings, args) == PoolerSettings("cls")


def test_instances_of_all_groups_are_counted() -> None:
    assert instance_count('{"instance_group": [{"count": 2}, {"count": 3}]}') == 5


def test_a_group_without_a_count_is_one_instance() -> None:
    assert instance_count('{"instance_group": [{"kind": "KIND_CPU"}]}') == 1


def test_no_group_is_one_instance() -> None:
    assert instance_count("{}") == 1


@pytest.mark.parametrize(
    ("groups", "instances"),
    [
        ([], 1),
        ([{}], 1),
        ([{"count": 2}, {"count": 3}], 5),
        ([{"count": 2, "gpus": []}], 2),
        ([{"count": 2, "gpus": [0, 3]}], 4),
        ([{"count": 1, "gpus": [0, 1, 2]}, {"count": 2, "gpus": [5]}, {"count": 1}], 6),
    ],
)
def test_instances_are_counted_on_all_of_their_devices(groups: list[dict[str, object]], instances: int) -> None:
    assert all_instances(json.dumps({"instance_group": groups})) == instances


def test_a_configuration_without_groups_is_one_instance() -> None:
    assert all_instances("{}") == 1


QUEUE: dict[str, object] = {"queue_requests": 7, "queue_tokens": 1000, "queue_timeout_s": 2.5}


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"checkpoint": "a/b"}, EncoderSettings("a/b", 8, 64)),
        ({"checkpoint": "a/b", "model_class": "c"}, LayerwiseSettings("a/b", "c", 8, 64)),
    ],
)
def test_what_may_wait_for_an_encoder_follows_from_its_budget_unless_told(given: dict[str, str], plain: Any) -> None:
    config = {**given, "max_length": "8", "token_budget": "64"}
    assert read_settings(type(plain), told(**config)) == plain
    assert {getattr(plain, name) for name in QUEUE} == {None}
    queued = replace(plain, **QUEUE)
    assert read_settings(type(plain), told(**config, **{n: str(v) for n, v in QUEUE.items()})) == queued
    assert read_settings(type(plain), told(**write_parameters(queued))) == queued


@pytest.mark.parametrize(("method", "rows"), [("cls", "first"), ("last_token", "last"), ("mean", "all")])
def test_a_pooling_needs_no_more_rows_than_it_reads(method: str, rows: str) -> None:
    assert rows_needed(method) == rows


def test_a_pooling_that_is_not_known_gets_all_rows() -> None:
    assert rows_needed("weighted") == "all"
