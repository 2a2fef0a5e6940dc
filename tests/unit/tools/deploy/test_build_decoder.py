# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.deploy.build`, of decoder-only embedders: where their texts are pooled, and in which precision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flagtriton_tools.deploy.build import build, describe
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.errors import ToolError
from tests.support.folders import facts

DECODER = facts(model_class="decoder-only-base", pooling_method=None, model_type="mistral")


@pytest.mark.parametrize("known", [None, "last_token"])
def test_a_decoder_is_pooled_at_its_last_token_and_sends_that_alone(known: str | None) -> None:
    built = {model.name: model.config for model in build(replace(DECODER, pooling_method=known), AddOptions())}
    assert built["tiny"].parameters["pooling_method"].string_value == "last_token"
    assert built["tiny_encoder"].parameters["rows"].string_value == "last"


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_another_pooling_for_a_decoder_is_refused(pooling: str) -> None:
    with pytest.raises(ToolError, match=f"pooled at their last token; {pooling} pooling was asked for: --model-class"):
        build(DECODER, AddOptions(pooling_method=pooling))


@pytest.mark.parametrize("found", [{"pooling_method": "mean"}, {"unknown_pooling": "max"}])
def test_another_pooling_found_beside_a_decoder_is_refused_until_overruled(found: dict[str, str]) -> None:
    known = replace(DECODER, **found)
    with pytest.raises(ToolError, match="encoder-only-base has the other poolings; --pooling last_token overrules it"):
        build(known, AddOptions())
    assert describe(known, AddOptions(pooling_method="last_token")).pooling_method == "last_token"


@pytest.mark.parametrize(
    ("model_class", "device", "precision", "told"),
    [
        ("decoder-only-base", "gpu:0", "auto", "bf16"),
        ("decoder-only-base", "gpu:0", "fp16", "fp16"),
        ("decoder-only-base", "cpu", "auto", "auto"),
        ("encoder-only-base", "gpu:0", "auto", "fp16"),
        ("encoder-only-base", "cpu", "auto", "auto"),
    ],
)
def test_auto_on_a_gpu_is_resolved_when_a_deployment_is_added(
    model_class: str, device: str, precision: str, told: str
) -> None:
    known = facts(model_class=model_class, pooling_method=None)
    built = {model.name: model.config for model in build(known, AddOptions(device=device, precision=precision))}
    assert built["tiny"].parameters["precision"].string_value == precision
    for step in ("encoder", "pooler"):
        assert built[f"tiny_{step}"].parameters["precision"].string_value == told


def test_an_adapter_is_told_to_the_encoder_and_shown() -> None:
    built = {model.name: model.config for model in build(DECODER, AddOptions(peft="maker/lora"))}
    for folder in ("tiny", "tiny_encoder"):
        assert built[folder].parameters["peft"].string_value == "maker/lora"
    assert "peft" not in built["tiny_tokenizer"].parameters
