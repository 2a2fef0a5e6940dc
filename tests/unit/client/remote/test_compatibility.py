# SPDX-License-Identifier: Apache-2.0
"""What is refused and what is warned of, for a deployment alone."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from flagtriton.errors import DeploymentMismatchError, DeploymentWarning
from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.parameters import read_parameters
from flagtriton.remote.compatibility import device_names, refuse_mismatch, served_devices, warn_of_differences
from tests.support.fake_models import model_config


def deployment(**changes: Any) -> Deployment:
    return read_parameters(Deployment, model_config("bge-m", **changes).parameters)


def refuse(served: Deployment, pooling_method: str | None = None, **max_lengths: int) -> None:
    refuse_mismatch(
        "bge-m",
        served,
        model_classes=["encoder-only-base"],
        pooling_method=pooling_method,
        max_lengths=max_lengths,
    )


def differences(served: Deployment, **asked: Any) -> list[str]:
    """Return the warnings of `warn_of_differences`, FlagEmbedding's defaults standing in for what is not asked."""
    defaults: dict[str, Any] = {
        "use_fp16": True,
        "use_bf16": False,
        "devices": None,
        "trust_remote_code": None,
        "cache_dir": None,
        "ignored": [],
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_differences("bge-m", served, **{**defaults, **asked})
    assert all(warning.category is DeploymentWarning for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        ("cpu", ["cpu"]),
        ("cuda:1", ["cuda:1"]),
        (0, ["cuda:0"]),
        ([0, 2], ["cuda:0", "cuda:2"]),
        (["cuda:0", "cpu"], ["cuda:0", "cpu"]),
        (["cpu", "cpu"], ["cpu", "cpu"]),
    ],
)
def test_devices_go_by_flagembeddings_names(devices: Any, names: list[str]) -> None:
    assert device_names(devices) == names


@pytest.mark.parametrize("devices", [1.5, ("cuda:0",), ["cuda:0", 1], [None]])
def test_other_devices_are_refused_with_flagembeddings_words(devices: Any) -> None:
    with pytest.raises(ValueError, match=r"^devices should be a string or an integer or a list of strings or a list"):
        device_names(devices)


@pytest.mark.parametrize(
    ("device", "names"), [("cpu", ["cpu"]), ("gpu:0", ["cuda:0"]), ("gpu:0,1", ["cuda:0", "cuda:1"])]
)
def test_served_devices_go_by_the_same_names(device: str, names: list[str]) -> None:
    assert served_devices(deployment(device=device)) == names


def test_what_is_served_as_asked_is_not_refused() -> None:
    refuse(deployment(), pooling_method="cls", query_max_length=512)


def test_another_class_is_refused_naming_both() -> None:
    with pytest.raises(DeploymentMismatchError, match=r"served as embed decoder-only-base; .* embed encoder-only-base"):
        refuse(deployment(model_class="decoder-only-base"))


@pytest.mark.parametrize(
    ("served", "expected", "command"),
    [
        ("decoder-only-base", "decoder-only-icl", "--model-class decoder-only-icl"),
        ("decoder-only-icl", "decoder-only-base", "--model-class decoder-only-base"),
        ("decoder-only-icl", "decoder-only-pseudo_moe", "--model-class decoder-only-pseudo_moe"),
        ("encoder-only-base", "encoder-only-m3", "--model-class encoder-only-m3"),
        ("encoder-only-m3", "encoder-only-base", "--model-class encoder-only-base"),
    ],
)
def test_the_refusal_of_a_class_says_how_to_deploy_it(served: str, expected: str, command: str) -> None:
    with pytest.raises(DeploymentMismatchError) as refused:
        refuse_mismatch(
            "mine",
            deployment(model_class=served, checkpoint="/models/my model"),
            model_classes=[expected],
            pooling_method=None,
            max_lengths={},
        )
    assert str(refused.value) == (
        f"mine is served as embed {served}; this class expects embed {expected}. FlagAutoModel chooses the right "
        f"class. If the checkpoint is of the class {expected}, deploy it so, with its other options: "
        f"flagtriton add '/models/my model' --name mine --repository REPOSITORY --force {command}"
    )


@pytest.mark.parametrize(
    ("served", "expected"),
    [("decoder-only-base", "decoder-only-layerwise"), ("decoder-only-lightweight", "decoder-only-layerwise")],
)
def test_the_refusal_of_a_rerankers_class_says_so_too(served: str, expected: str) -> None:
    command = f"--name bge-m --repository REPOSITORY --force --model-class {expected}$"
    with pytest.raises(DeploymentMismatchError, match=command):
        refuse_mismatch(
            "bge-m",
            deployment(task="rerank", model_class=served),
            model_classes=[expected],
            pooling_method=None,
            max_lengths={},
            task="rerank",
        )


def test_of_an_llm_that_is_served_for_another_task_the_command_names_the_task() -> None:
    with pytest.raises(DeploymentMismatchError, match=r"--force --task rerank --model-class decoder-only-base$"):
        refuse_mismatch(
            "bge-m",
            deployment(model_class="decoder-only-base"),
            model_classes=["decoder-only-base"],
            pooling_method=None,
            max_lengths={},
            task="rerank",
        )


def test_an_encoder_is_never_to_be_deployed_as_a_decoder() -> None:
    with pytest.raises(DeploymentMismatchError, match=r"FlagAutoModel chooses the right class$"):
        refuse(deployment(model_class="decoder-only-icl"))


def test_a_reranker_of_the_same_class_name_is_refused() -> None:
    with pytest.raises(DeploymentMismatchError, match="bge-m is served as rerank encoder-only-base"):
        refuse(deployment(task="rerank"))


def test_another_pooling_is_refused_naming_both() -> None:
    with pytest.raises(DeploymentMismatchError, match="served with pooling_method='cls', not 'mean'"):
        refuse(deployment(), pooling_method="mean")


def test_the_refusal_of_a_pooling_says_how_to_deploy_it() -> None:
    with pytest.raises(
        DeploymentMismatchError,
        match="add BAAI/bge-m --name bge-m --repository REPOSITORY --force --pooling mean and",
    ):
        refuse(deployment(), pooling_method="mean")


def test_no_pooling_asked_takes_what_is_served() -> None:
    refuse(deployment(pooling_method="mean"), pooling_method=None)


def test_a_greater_length_is_refused_naming_the_argument() -> None:
    with pytest.raises(DeploymentMismatchError, match=r"passage_max_length=257, .* with at most 256 tokens"):
        refuse(deployment(max_length=256), query_max_length=256, passage_max_length=257)


def test_the_refusal_of_a_length_says_how_to_deploy_it() -> None:
    command = "flagtriton add BAAI/bge-m --name bge-m --repository REPOSITORY --force --max-length 1024$"
    with pytest.raises(DeploymentMismatchError, match=command):
        refuse(deployment(), query_max_length=1024)


def test_the_default_length_is_never_refused() -> None:
    refuse(deployment(max_length=256), query_max_length=512, passage_max_length=512)


def test_flagembeddings_defaults_warn_of_nothing() -> None:
    assert differences(deployment(trust_remote_code=True, device="gpu:0")) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "auto"])
def test_use_fp16_never_differs(precision: str) -> None:
    assert differences(deployment(precision=precision), use_fp16=True) == []


def test_a_precision_left_to_the_server_is_named_as_such() -> None:
    [difference] = differences(deployment(precision="auto"), use_fp16=False)
    assert difference == "bge-m: use_fp16=False, served in auto (the server's log says which precision that is there)"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_full_precision_asked_and_another_served_differ(precision: str) -> None:
    expected = [f"bge-m: use_fp16=False, served in {precision}"]
    assert differences(deployment(precision=precision), use_fp16=False) == expected


def test_full_precision_asked_and_served_agree() -> None:
    assert differences(deployment(precision="fp32"), use_fp16=False) == []


def test_bf16_asked_and_another_served_differ() -> None:
    assert differences(deployment(precision="fp16"), use_bf16=True) == ["bge-m: use_bf16=True, served in fp16"]


@pytest.mark.parametrize("use_fp16", [True, False])
def test_bf16_asked_and_served_agree(use_fp16: bool) -> None:
    assert differences(deployment(precision="bf16"), use_bf16=True, use_fp16=use_fp16) == []


def test_other_devices_differ() -> None:
    expected = ["bge-m: devices='cpu', served on cuda:0, cuda:1"]
    assert differences(deployment(device="gpu:0,1"), devices="cpu") == expected


@pytest.mark.parametrize("devices", ["cuda:0", 0, ["cuda:0"], [0]])
def test_the_same_device_in_any_spelling_agrees(devices: Any) -> None:
    assert differences(deployment(device="gpu:0"), devices=devices) == []


def test_remote_code_asked_and_not_served_differ() -> None:
    expected = ["bge-m: trust_remote_code=True, served with False"]
    assert differences(deployment(), trust_remote_code=True) == expected


def test_a_cache_folder_has_no_effect_and_says_so() -> None:
    [message] = differences(deployment(), cache_dir="/tmp/hub")
    assert message.startswith("bge-m: cache_dir='/tmp/hub', weights are loaded by the server")


def test_unknown_arguments_are_listed() -> None:
    expected = ["bge-m: no such argument here, ignored: fp16, device"]
    assert differences(deployment(), ignored=["fp16", "device"]) == expected


def test_several_differences_are_one_warning() -> None:
    asked = {"use_fp16": False, "devices": "cuda:0", "trust_remote_code": True}
    assert differences(deployment(precision="bf16"), **asked) == [
        "bge-m: use_fp16=False, served in bf16; devices='cuda:0', served on cpu; "
        "trust_remote_code=True, served with False"
    ]
