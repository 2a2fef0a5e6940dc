# SPDX-License-Identifier: Apache-2.0
"""`checkpoint.weight_files`: which files weights are read from, held to what transformers itself loads."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.checkpoint.weight_files import adapter_base, unread_weights, weight_files
from flagtriton_server.loading import encoder
from flagtriton_server.loading.encoder import check_weights, load_encoder
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.errors import ToolError
from tests.support.checkpoints.tiny import make_bert, make_decoder, make_m3
from tests.support.folders import write_checkpoint, write_json

INDEX = "model.safetensors.index.json"
BIN_INDEX = "pytorch_model.bin.index.json"
SHARD = "model-00001-of-00001.safetensors"
BIN_SHARD = "pytorch_model-00001-of-00001.bin"
MARKS = {"model.safetensors": 1.0, SHARD: 2.0, "pytorch_model.bin": 3.0, BIN_SHARD: 4.0, "other.safetensors": 5.0}
"""What the first bias is filled with in each file, which tells them apart once they are loaded."""
MARKED = "embeddings.LayerNorm.bias"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    """Return a copy that may be changed."""
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def weights(checkpoint: Path) -> dict[str, Tensor]:
    """Return a checkpoint's weights, whose file is removed."""
    content = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    return content


def write(checkpoint: Path, content: dict[str, Tensor], name: str) -> None:
    """Write weights to a file, marked by its name; an index of a whole shard in place of an index."""
    if name.endswith(".index.json"):
        shard = SHARD if name == INDEX else BIN_SHARD
        write_json(checkpoint / name, {"metadata": {}, "weight_map": dict.fromkeys(content, shard)})
        name = shard
    marked = {**content, MARKED: torch.full_like(content[MARKED], MARKS[name])}
    if name.endswith(".bin"):
        torch.save(marked, checkpoint / name)
    else:
        save_file(marked, checkpoint / name, {"format": "pt"})


def load(checkpoint: Path, precision: str = "fp32") -> Any:
    settings = EncoderSettings(str(checkpoint), 64, token_budget=64, precision=precision)
    return load_encoder(settings, torch.device("cpu")).module


def mark(module: Any) -> float:
    return float(module.embeddings.LayerNorm.bias.detach()[0])


@pytest.mark.parametrize(
    "present",
    [
        ["model.safetensors", INDEX],
        ["model.safetensors", BIN_INDEX],
        ["model.safetensors", "pytorch_model.bin"],
        [INDEX, "pytorch_model.bin"],
        [INDEX, BIN_INDEX],
        ["pytorch_model.bin", BIN_INDEX],
        [BIN_INDEX],
        ["model.safetensors", INDEX, "pytorch_model.bin", BIN_INDEX],
    ],
    ids=" and ".join,
)
def test_of_several_files_those_are_read_that_transformers_reads(checkpoint: Path, present: list[str]) -> None:
    content = weights(checkpoint)
    for name in present:
        write(checkpoint, content, name)
    (file,) = weight_files(checkpoint)
    assert MARKS[file.name] == mark(AutoModel.from_pretrained(checkpoint)) == mark(load(checkpoint))


@pytest.mark.parametrize("stale", [INDEX, BIN_INDEX])
def test_an_index_left_over_beside_whole_weights_is_not_looked_at(checkpoint: Path, stale: str) -> None:
    write_json(checkpoint / stale, {"weight_map": {MARKED: "model-00001-of-00009.safetensors"}})
    assert inspect_checkpoint(str(checkpoint)).task == "embed"
    assert load(checkpoint) is not None


@pytest.mark.parametrize("name", ["consolidated.safetensors", "model.fp16.safetensors", "adapter_model.bin"])
def test_a_damaged_file_that_is_not_read_is_no_fault(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_bytes(b"x")
    assert load(checkpoint) is not None


def test_a_file_that_the_configuration_names_comes_first(checkpoint: Path) -> None:
    write(checkpoint, load_file(checkpoint / "model.safetensors"), "other.safetensors")
    config = json.loads((checkpoint / "config.json").read_text())
    write_json(checkpoint / "config.json", {**config, "transformers_weights": "other.safetensors"})
    assert weight_files(checkpoint) == [checkpoint / "other.safetensors"]
    assert mark(AutoModel.from_pretrained(checkpoint)) == mark(load(checkpoint)) == MARKS["other.safetensors"]


# Files that are not read.


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["model.fp16.safetensors"], r"model\.fp16\.safetensors is a variant: rename it to model\.safetensors"),
        (["pytorch_model.fp16.bin"], r"is a variant: rename it to pytorch_model\.bin"),
        (["tf_model.h5"], "there is tf_model.h5; weights of TensorFlow are not read: download .* PyTorch weights"),
        (["flax_model.msgpack"], "weights of Flax are not read"),
        (["onnx/model.onnx"], "there is onnx/model.onnx; weights of ONNX are not read"),
        (["bge-m3-q8_0.gguf"], r"weights of llama\.cpp are not read"),
        (["tf_model.h5", "flax_model.msgpack"], "weights of Flax and TensorFlow are not read"),
        (["consolidated.safetensors"], "there is consolidated.safetensors; save the model with .* save_pretrained"),
        (["0_Transformer/model.safetensors"], "add .*/tiny/0_Transformer, if that is the checkpoint"),
    ],
)
def test_a_folder_without_weights_that_are_read_is_told_what_it_has_and_what_to_do(
    names: list[str], advice: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "tiny", without="model.safetensors")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    with pytest.raises(ToolError, match=rf"weights missing \(looked for model\.safetensors, .*\); .*{advice}"):
        inspect_checkpoint(str(folder))


def test_heads_and_a_trainers_files_are_no_weights(tmp_path: Path) -> None:
    for name in ("sparse_linear.pt", "colbert_linear.safetensors", "training_args.bin", "optimizer.pt"):
        (tmp_path / name).touch()
    assert unread_weights(tmp_path) is None


# Adapters.


def test_a_folder_with_an_adapter_alone_is_told_its_base_and_how_to_add_it(tmp_path: Path) -> None:
    write_json(tmp_path / "my lora" / "adapter_config.json", {"base_model_name_or_path": "BAAI/bge-en-icl"})
    (tmp_path / "my lora" / "adapter_model.safetensors").touch()
    command = rf"flagtriton add BAAI/bge-en-icl --peft '{tmp_path}/my lora' --repository REPOSITORY$"
    with pytest.raises(ToolError, match=rf"holds a PEFT adapter of BAAI/bge-en-icl, without .* weights; .*{command}"):
        inspect_checkpoint(str(tmp_path / "my lora"))


def test_an_adapter_that_does_not_name_its_base_is_told_all_the_same(tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA"})
    assert adapter_base(tmp_path) == "its base model"
    with pytest.raises(ToolError, match=r"flagtriton add BASE --peft "):
        inspect_checkpoint(str(tmp_path))


def test_an_adapter_beside_the_weights_is_neither_applied_nor_ignored(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    checkpoint = make_decoder(tmp_path / "mistral", "mistral")
    model = AutoModel.from_pretrained(checkpoint)
    before = model.get_input_embeddings().weight.shape
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(checkpoint)
    assert type(AutoModel.from_pretrained(checkpoint).layers[0].self_attn.q_proj).__module__.startswith("peft.")
    assert before[0] > 0
    for read, error in ((inspect_checkpoint, ToolError), (load, ValueError)):
        with pytest.raises(error, match=r"holds the weights of a model and a PEFT adapter of .* adapter_config\.json"):
            read(str(checkpoint))


def test_an_adapter_that_the_hub_has_beside_the_weights_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    checkpoint = make_decoder(tmp_path / "mistral", "mistral")
    get_peft_model(AutoModel.from_pretrained(checkpoint), LoraConfig(target_modules=["q_proj"])).save_pretrained(
        checkpoint
    )
    monkeypatch.setattr(encoder, "check_files", lambda _: None)  # as for a hub name, whose files are not here yet
    with pytest.raises(ValueError, match="holds the weights of a model and a PEFT adapter"):
        load(checkpoint)


# Names of weights.


@pytest.mark.parametrize("prefix", ["module.", "model.", "roberta.", "encoder.", "module.bert.", "0.auto_model."])
def test_weights_under_other_names_are_refused_naming_what_stands_before_them(checkpoint: Path, prefix: str) -> None:
    content = {f"{prefix}{name}": tensor for name, tensor in weights(checkpoint).items()}
    save_file(content, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"has its weights under names that begin with '{prefix}'.*save_pretrained"):
        load(checkpoint)


def test_the_architectures_own_prefix_is_loaded(checkpoint: Path) -> None:
    content = weights(checkpoint)
    write(checkpoint, content, "model.safetensors")
    marked = load_file(checkpoint / "model.safetensors")
    save_file({f"bert.{name}": tensor for name, tensor in marked.items()}, checkpoint / "model.safetensors")
    assert mark(load(checkpoint)) == MARKS["model.safetensors"]


def test_weights_of_another_architecture_are_named_on_both_sides() -> None:
    with pytest.raises(
        ValueError, match=r"lacks 1 weights .*, a\.weight the first; it has 2 that .* has not, b the first"
    ):
        check_weights("tiny", ["a.weight"], ["c", "b"])


# Precisions of files.


@pytest.mark.parametrize("stored", ["fp16", "bf16", "mixed"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_file_in_half_precision_is_computed_in_the_deployments(checkpoint: Path, stored: str, precision: str) -> None:
    halves = {"fp16": [torch.float16], "bf16": [torch.bfloat16], "mixed": [torch.float16, torch.bfloat16]}[stored]
    content = weights(checkpoint)
    rounded = {name: tensor.to(halves[row % len(halves)]) for row, (name, tensor) in enumerate(content.items())}
    save_file(rounded, checkpoint / "model.safetensors", {"format": "pt"})
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    name = "embeddings.word_embeddings.weight"
    loaded = load(checkpoint, precision).embeddings.word_embeddings.weight
    assert loaded.dtype == dtype
    assert torch.equal(loaded, rounded[name].to(dtype))


def test_heads_in_half_precision_are_loaded(tmp_path: Path) -> None:
    from flagtriton.protocol.settings import HeadSettings
    from flagtriton_server.heads.linear import load_sparse_head
    from flagtriton_server.loading.encoder import choose_precision

    checkpoint = make_m3(tmp_path / "m3")
    head = torch.load(checkpoint / "sparse_linear.pt")
    torch.save({name: tensor.half() for name, tensor in head.items()}, checkpoint / "sparse_linear.pt")
    cpu = torch.device("cpu")
    loaded = load_sparse_head(HeadSettings(str(checkpoint)), choose_precision("fp32", cpu), cpu)
    assert torch.equal(loaded.linear.bias, head["bias"].half().float())


def test_which_files_are_read_is_known_without_torch() -> None:
    import subprocess

    code = "import sys, flagtriton_server.checkpoint.files as f; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
