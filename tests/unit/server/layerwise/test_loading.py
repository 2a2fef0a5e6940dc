# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.layerwise.loading`: checkpoints as they are released, and ones that lack something."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flagtriton.protocol.settings import LayerwiseSettings
from flagtriton_server.layerwise.loading import LoadedDecoder, load_decoder, load_layer_heads, read_spec
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight

CPU = torch.device("cpu")
LAYERWISE, LIGHTWEIGHT = "decoder-only-layerwise", "decoder-only-lightweight"
MAKERS = {LAYERWISE: make_layerwise, LIGHTWEIGHT: make_lightweight}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {model_class: make(folder / model_class) for model_class, make in MAKERS.items()}


def settings(checkpoint: Path, model_class: str = LAYERWISE, **more: Any) -> LayerwiseSettings:
    return LayerwiseSettings(str(checkpoint), model_class, **{"max_length": 512, "token_budget": 256, **more})


def load(checkpoint: Path, model_class: str = LAYERWISE, **more: Any) -> LoadedDecoder:
    return load_decoder(settings(checkpoint, model_class, **{"precision": "fp32", **more}), CPU)


def heads(checkpoint: Path, model_class: str = LAYERWISE, dtype: torch.dtype = torch.float32) -> Tensor:
    return load_layer_heads(str(checkpoint), None, read_spec(str(checkpoint), None, model_class), dtype)


def weights(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / "model.safetensors")


def rewritten(checkpoint: Path, folder: Path, write: Callable[[dict[str, Tensor], Path], Any]) -> Path:
    """Return a copy of a checkpoint whose weights are written in another way."""
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    write(weights(checkpoint), folder)
    return folder


def without(*names: str) -> Callable[[dict[str, Tensor], Path], None]:
    """Return what writes all weights but some."""

    def write(of: dict[str, Tensor], folder: Path) -> None:
        kept = {name: tensor for name, tensor in of.items() if name not in names}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    return write


def in_shards(of: dict[str, Tensor], folder: Path) -> None:
    """Write weights as two files and an index, in which the heads are in both."""
    names = sorted(of)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in files.items():
        save_file({name: of[name] for name in own}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": {name: file for file, own in files.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def pickled(of: dict[str, Tensor], folder: Path) -> None:
    torch.save(of, folder / "pytorch_model.bin")


def assert_holds(decoder: LoadedDecoder, of: Mapping[str, Tensor]) -> None:
    """Assert that a decoder has these weights, all but those of the heads."""
    expected = {name.removeprefix("model."): tensor for name, tensor in of.items() if name.startswith("model.")}
    found = decoder.module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def heads_in(of: Mapping[str, Tensor]) -> Tensor:
    """Return `[5, 48]`."""
    return torch.cat([of[f"lm_head.{place}.linear_head.weight"] for place in range(5)])


@pytest.mark.parametrize("model_class", MAKERS)
def test_weights_are_read_by_the_released_checkpoints_names(checkpoints: dict[str, Path], model_class: str) -> None:
    checkpoint = checkpoints[model_class]
    decoder = load(checkpoint, model_class)
    assert_holds(decoder, weights(checkpoint))
    assert torch.equal(heads(checkpoint, model_class), heads_in(weights(checkpoint)))
    assert decoder.spec == read_spec(str(checkpoint), None, model_class)
    assert not decoder.module.training


@pytest.mark.parametrize("model_class", MAKERS)
def test_what_one_step_leaves_to_the_other_is_no_surprise(
    checkpoints: dict[str, Path], model_class: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        load(checkpoints[model_class], model_class)
        heads(checkpoints[model_class], model_class)
    assert caplog.messages == []


@pytest.mark.parametrize("write", [in_shards, pickled])
@pytest.mark.parametrize("model_class", MAKERS)
def test_weights_may_be_sharded_or_pickled(
    checkpoints: dict[str, Path], tmp_path: Path, model_class: str, write: Callable[[dict[str, Tensor], Path], None]
) -> None:
    other = rewritten(checkpoints[model_class], tmp_path / "other", write)
    assert_holds(load(other, model_class), weights(checkpoints[model_class]))
    assert torch.equal(heads(other, model_class), heads_in(weights(checkpoints[model_class])))


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.norm.weight", "model.layers.5.mlp.up_proj.weight"]
)
@pytest.mark.parametrize("model_class", MAKERS)
def test_a_weight_that_is_missing_is_named(
    checkpoints: dict[str, Path], tmp_path: Path, model_class: str, name: str
) -> None:
    other = rewritten(checkpoints[model_class], tmp_path / "other", without(name))
    with pytest.raises(ValueError, match=f"lacks 1 weights of its architecture, {name.removeprefix('model.')} the"):
        load(other, model_class)


def test_a_head_that_is_missing_is_named_and_the_decoder_loads(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    other = rewritten(checkpoints[LAYERWISE], tmp_path / "other", without("lm_head.4.linear_head.weight"))
    load(other)
    with pytest.raises(ValueError, match=r"lacks 1 weights of its architecture, lm_head\.4\.linear_head\.weight the"):
        heads(other)


def test_heads_of_another_shape_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def write(of: dict[str, Tensor], folder: Path) -> None:
        wide = {name: tensor.repeat(3, 1) if "lm_head" in name else tensor for name, tensor in of.items()}
        save_file(wide, folder / "model.safetensors", metadata={"format": "pt"})

    other = rewritten(checkpoints[LAYERWISE], tmp_path / "other", write)
    with pytest.raises((ValueError, RuntimeError), match="size"):
        heads(other)


def test_a_plain_checkpoints_vocabulary_head_is_no_layers_head(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def write(of: dict[str, Tensor], folder: Path) -> None:
        kept = {name: tensor for name, tensor in of.items() if not name.startswith("lm_head")}
        save_file({**kept, "lm_head.weight": torch.zeros(290, 48)}, folder / "model.safetensors", {"format": "pt"})

    other = rewritten(checkpoints[LAYERWISE], tmp_path / "other", write)
    with pytest.raises(ValueError, match=r"lacks 5 weights of its architecture, lm_head\.0\.linear_head\.weight the"):
        heads(other)


def test_a_folder_without_weights_is_no_checkpoint(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    other = rewritten(checkpoints[LAYERWISE], tmp_path / "other", lambda *_: None)
    with pytest.raises(OSError, match=r"no file named .*model\.safetensors"):
        load(other)


@pytest.mark.parametrize(("model_class", "positions"), [(LAYERWISE, 2048), (LIGHTWEIGHT, 8192)])
def test_a_greater_max_length_than_there_are_positions_is_refused(
    checkpoints: dict[str, Path], model_class: str, positions: int
) -> None:
    load(checkpoints[model_class], model_class, max_length=positions)
    said = f"has positions for {positions} tokens, .* max_length is {positions + 1}; .* --max-length {positions}"
    with pytest.raises(ValueError, match=said):
        load(checkpoints[model_class], model_class, max_length=positions + 1)


def test_a_checkpoint_of_another_variant_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    checkpoint = make_layerwise(tmp_path / "raw", head_type="raw")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"config\.json has head_type 'raw'"):
        load(checkpoint)


@pytest.mark.parametrize("model_class", MAKERS)
def test_code_that_comes_with_a_checkpoint_is_never_run(tmp_path: Path, model_class: str) -> None:
    checkpoint = MAKERS[model_class](tmp_path / "checkpoint")
    auto_map = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["auto_map"]
    code = f"open({str(tmp_path / 'was run')!r}, 'w')\nraise RuntimeError('code was run')\n"
    for reference in auto_map.values():
        (checkpoint / f"{reference.partition('.')[0]}.py").write_text(code, encoding="utf-8")
    assert len(list(checkpoint.glob("*.py"))) == 2
    load(checkpoint, model_class)
    heads(checkpoint, model_class)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize(
    ("precision", "stored", "computed"),
    [
        ("fp32", torch.float32, torch.float32),
        ("bf16", torch.bfloat16, torch.bfloat16),
        ("fp16", torch.float16, torch.float32),
    ],
)
def test_weights_are_rounded_to_the_precision_asked_for(
    checkpoints: dict[str, Path], precision: str, stored: torch.dtype, computed: torch.dtype
) -> None:
    decoder = load(checkpoints[LAYERWISE], precision=precision)
    expected = weights(checkpoints[LAYERWISE])["model.layers.2.mlp.up_proj.weight"].to(stored).to(computed)
    found = decoder.module.layers[2].mlp.up_proj.weight
    assert {parameter.dtype for parameter in decoder.module.parameters()} == {computed}
    assert torch.equal(found, expected)
    assert torch.equal(
        heads(checkpoints[LAYERWISE], dtype=stored), heads_in(weights(checkpoints[LAYERWISE])).to(stored)
    )


@pytest.mark.parametrize(
    ("model_class", "changes", "max_length", "within"),
    [
        (LAYERWISE, {}, 512, 512),
        (LIGHTWEIGHT, {}, 512, 32),
        (LIGHTWEIGHT, {}, 20, 20),
        (LIGHTWEIGHT, {"sliding_window": None}, 512, 512),
    ],
)
def test_rows_share_prefixes_as_long_as_no_window_is_shorter(
    tmp_path: Path, model_class: str, changes: dict[str, Any], max_length: int, within: int
) -> None:
    checkpoint = MAKERS[model_class](tmp_path / "checkpoint", **changes)
    assert load(checkpoint, model_class, max_length=max_length).max_shared_length == within


def test_weights_that_do_not_fit_are_refused_before_they_are_read(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flagtriton_server.loading.placement._free_bytes", lambda _: 10_000)
    with pytest.raises(ValueError, match=r"does not fit: .* add it again with --precision bf16, or fewer --instances"):
        load(checkpoints[LAYERWISE])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_class", MAKERS)
def test_an_adapter_is_merged_as_by_hand(checkpoints: dict[str, Path], tmp_path: Path, model_class: str) -> None:
    peft = pytest.importorskip("peft")
    checkpoint = checkpoints[model_class]
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj"])
    wrapped = peft.get_peft_model(load(checkpoint, model_class).module, config)
    generator = torch.Generator().manual_seed(0)
    expected = weights(checkpoint)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(generator=generator)
    for number in range(6):
        projection = wrapped.base_model.model.layers[number].self_attn.q_proj
        down, up = projection.lora_A["default"].weight.detach(), projection.lora_B["default"].weight.detach()
        expected[f"model.layers.{number}.self_attn.q_proj.weight"] += up @ down * 12 / 4
    wrapped.save_pretrained(tmp_path)
    found = load(checkpoint, model_class, peft=str(tmp_path)).module.state_dict()
    plain = weights(checkpoint)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[f"model.{name}"], rtol=0, atol=1e-5)
        assert torch.equal(tensor, plain[f"model.{name}"]) == ("q_proj" not in name)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_the_whole_model_fits_its_decoder(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    # names as they come from training with heads: one more `model.` in the middle
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["v_proj"], init_lora_weights=False)
    peft.get_peft_model(load(checkpoints[LAYERWISE]).module, config).save_pretrained(tmp_path / "bare")
    shutil.copytree(tmp_path / "bare", tmp_path / "headed")
    file = tmp_path / "headed" / "adapter_model.safetensors"
    named = {name.replace("model.layers", "model.model.layers"): tensor for name, tensor in load_file(file).items()}
    save_file({**named, "base_model.model.lm_head.0.linear_head.weight": torch.ones(1, 48)}, file)
    bare, headed = (load(checkpoints[LAYERWISE], peft=str(tmp_path / kind)).module for kind in ("bare", "headed"))
    plain = weights(checkpoints[LAYERWISE])
    for name, tensor in headed.state_dict().items():
        assert torch.equal(tensor, bare.state_dict()[name])
        assert torch.equal(tensor, plain[f"model.{name}"]) == ("v_proj" not in name)


def test_a_checkpoint_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        read_spec(str(tmp_path / "nowhere"), None, LAYERWISE)


def test_settings_of_another_class_are_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"config\.json has layer_wise False"):
        load_decoder(replace(settings(checkpoints[LAYERWISE]), model_class=LIGHTWEIGHT), CPU)
