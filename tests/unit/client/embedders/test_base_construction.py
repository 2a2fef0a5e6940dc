# SPDX-License-Identifier: Apache-2.0
"""What an embedder's constructor refuses, warns of and keeps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flagtriton import DeploymentMismatchError, DeploymentWarning, FlagModel, ModelNotServedError
from tests.support.fake_models import NAME, embedder, fake_server


def warnings_of(make: Callable[[], object]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return caught


def test_flagembeddings_defaults_give_no_warning() -> None:
    assert warnings_of(lambda: embedder(fake_server(precision="fp16", device="gpu:0"))) == []


def test_a_name_that_is_not_served_is_an_error() -> None:
    with pytest.raises(ModelNotServedError, match="'bge-m3' is not served at fake://; served there: bge-base-en-v1"):
        embedder(fake_server(), "BAAI/bge-m3")


def test_another_pooling_is_refused_with_how_to_deploy_it() -> None:
    command = f"flagtriton add BAAI/{NAME} --name {NAME} --repository REPOSITORY --force --pooling cls"
    with pytest.raises(DeploymentMismatchError, match=command):
        embedder(fake_server(pooling_method="mean"))


def test_another_class_is_refused() -> None:
    with pytest.raises(DeploymentMismatchError, match="served as embed encoder-only-m3; this class expects"):
        embedder(fake_server(model_class="encoder-only-m3"))


@pytest.mark.parametrize("argument", ["query_max_length", "passage_max_length"])
def test_a_length_beyond_the_deployments_is_refused_with_how_to_deploy_it(argument: str) -> None:
    command = f"{argument}=1024, .* add BAAI/{NAME} --name {NAME} --repository REPOSITORY --force --max-length 1024"
    with pytest.raises(DeploymentMismatchError, match=command):
        embedder(fake_server(), **{argument: 1024})


@pytest.mark.parametrize(
    ("asked", "deployed", "message"),
    [
        ({"devices": "cpu"}, {"device": "gpu:0"}, "devices='cpu', served on cuda:0"),
        ({"use_bf16": True}, {"precision": "fp16"}, "use_bf16=True, served in fp16"),
        ({"use_fp16": False}, {"precision": "bf16"}, "use_fp16=False, served in bf16"),
        ({"trust_remote_code": True}, {}, "trust_remote_code=True, served with False"),
    ],
)
def test_a_difference_is_one_warning_naming_both_sides(
    asked: dict[str, Any], deployed: dict[str, Any], message: str
) -> None:
    caught = warnings_of(lambda: embedder(fake_server(**deployed), **asked))
    assert [(one.category, str(one.message)) for one in caught] == [(DeploymentWarning, f"{NAME}: {message}")]


def test_all_differences_of_one_object_are_one_warning() -> None:
    fake = fake_server(precision="bf16", device="gpu:0")
    assert len(warnings_of(lambda: embedder(fake, use_fp16=False, devices="cpu", cache_dir="/tmp", foo=1))) == 1


def test_unknown_arguments_of_the_constructor_are_one_warning() -> None:
    caught = warnings_of(lambda: embedder(fake_server(), fp16=False, device="cuda"))
    assert [str(one.message) for one in caught] == [f"{NAME}: no such argument here, ignored: fp16, device"]


def test_unknown_arguments_of_the_constructor_become_attributes() -> None:
    with pytest.warns(DeploymentWarning):
        model = embedder(fake_server(), examples_for_task=["e"])
    assert (model.examples_for_task, model.kwargs) == (["e"], {"examples_for_task": ["e"]})  # type: ignore[attr-defined]


def test_passage_instructions_are_no_unknown_arguments() -> None:
    def make() -> FlagModel:
        return embedder(fake_server(), passage_instruction_for_retrieval="p", passage_instruction_format="{} {}")

    assert warnings_of(make) == []


def test_a_warning_points_at_the_callers_line() -> None:
    [caught] = warnings_of(lambda: FlagModel(NAME, use_fp16=False, transport=fake_server(precision="bf16")))
    assert Path(caught.filename) == Path(__file__)


def test_target_devices_are_the_deployments() -> None:
    assert embedder(fake_server(device="gpu:0,1")).target_devices == ["cuda:0", "cuda:1"]


def test_arguments_are_kept_under_flagembeddings_names() -> None:
    given = {
        "normalize_embeddings": False,
        "use_fp16": True,
        "use_bf16": False,
        "query_instruction_for_retrieval": "q",
        "query_instruction_format": "{} {}",
        "batch_size": 3,
        "query_max_length": 4,
        "passage_max_length": 5,
        "convert_to_numpy": False,
        "truncate_dim": 2,
    }
    model = embedder(fake_server(), f"BAAI/{NAME}", **given)
    assert {name: getattr(model, name) for name in given} == given
    assert model.model_name_or_path == f"BAAI/{NAME}"
