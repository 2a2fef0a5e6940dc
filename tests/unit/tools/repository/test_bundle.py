# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.repository.bundle`: each step brings the files along that it reads, and is told to read those."""

from __future__ import annotations

import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flagtriton.protocol.parameters import read_settings
from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.loading.encoder import load_encoder
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions, Model
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.bundle import bytes_of, with_copies
from flagtriton_tools.repository.store import add_models, entry_named
from flagtriton_tools.repository.versions import add_version
from tests.support.checkpoints.sentence_transformers import dense, make_sentence_transformer
from tests.support.checkpoints.tiny import make_bert, make_decoder, make_m3, make_reranker
from tests.support.folders import facts, snapshot, write_json
from tests.unit.tools.repository.test_versions import told

TOKENIZER = {"config.json", "tokenizer.json", "tokenizer_config.json"}
WEIGHTS = {"model.safetensors"}


def models(checkpoint: Path, **options: Any) -> list[Model]:
    return build(inspect_checkpoint(str(checkpoint)), AddOptions(name="tiny", **options))


def copies(checkpoint: Path, version: int = 1, **options: Any) -> dict[str, set[str]]:
    """Return which files lie in each step's folder."""
    made = with_copies(models(checkpoint, **options), version)
    return {model.step: {Path(place).name for place in model.copies} for model in made if model.step}


def parameter(made: list[Model], step: str, name: str) -> str:
    return next(model for model in made if model.step == step).config.parameters[name].string_value


def test_the_tokenizer_brings_no_weights_and_the_pooler_nothing(tmp_path: Path) -> None:
    found = copies(make_bert(tmp_path / "bert"))
    assert found["tokenizer"] >= TOKENIZER
    assert not found["tokenizer"] & WEIGHTS
    assert found["encoder"] == found["tokenizer"] | WEIGHTS
    assert found["pooler"] == set()


def test_heads_of_m3_lie_where_they_are_read(tmp_path: Path) -> None:
    found = copies(make_m3(tmp_path / "m3"))
    heads = {"sparse_linear.pt", "colbert_linear.pt"}
    for step in ("dense_sparse", "colbert", "scorer"):
        assert found[step] >= heads
        assert not found[step] & WEIGHTS
    assert not (found["encoder"] | found["tokenizer"]) & heads


def test_a_rerankers_scorer_brings_the_weights_that_its_head_is_in(tmp_path: Path) -> None:
    assert copies(make_reranker(tmp_path / "reranker", make_bert))["reranker_scorer"] >= WEIGHTS


def test_pickled_weights_come_only_where_there_are_no_others(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path / "bert")
    for name in ("pytorch_model.bin", "model.onnx", "tf_model.h5"):
        (checkpoint / name).write_bytes(b"x")
    (checkpoint / "onnx").mkdir()
    assert not copies(checkpoint)["encoder"] & {"pytorch_model.bin", "model.onnx", "tf_model.h5", "onnx"}
    (checkpoint / "model.safetensors").unlink()
    assert "pytorch_model.bin" in copies(checkpoint)["encoder"]


def split_into_shards(checkpoint: Path, below: str = "") -> list[str]:
    """Spread a checkpoint's weights over two files, possibly in a folder of their own; return their names."""
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / below).mkdir(exist_ok=True)
    places = {name: f"{below}model-0000{1 + row % 2}-of-00002.safetensors" for row, name in enumerate(weights)}
    for place in sorted(set(places.values())):
        save_file({name: weights[name] for name in weights if places[name] == place}, checkpoint / place)
    write_json(checkpoint / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    return sorted(set(places.values()))


def test_of_several_sets_of_weights_the_one_that_is_read_is_copied(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path / "bert")
    shards = split_into_shards(checkpoint)
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.bin"):
        (checkpoint / name).write_bytes(b"x")  # Mistral's own format, a variant, and what older versions read
    assert {name for name in copies(checkpoint)["encoder"] if name.endswith(("safetensors", "bin"))} == set(shards)


def test_shards_below_the_folder_lie_below_the_copy(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path / "bert")
    shards = split_into_shards(checkpoint, "weights/")
    add_models(with_copies(models(checkpoint), 1), tmp_path / "repo")
    copied = tmp_path / "repo" / "tiny_encoder" / "1" / "checkpoint"
    assert all((copied / name).is_file() for name in shards)
    encoder = load_encoder(EncoderSettings(str(copied), 64, 64, precision="fp32"), torch.device("cpu"))
    assert encoder.packed


def test_a_shard_that_is_missing_is_told_before_anything_is_copied(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path / "bert")
    (checkpoint / split_into_shards(checkpoint)[1]).unlink()
    with pytest.raises(ToolError, match=r"model-00002-of-00002\.safetensors is missing, which the index of .* names"):
        copies(checkpoint)


def test_an_adapter_comes_along(tmp_path: Path) -> None:
    adapter = tmp_path / "lora"
    write_json(adapter / "adapter_config.json", {"peft_type": "LORA"})
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    made = with_copies(models(make_decoder(tmp_path / "mistral", "mistral"), peft=str(adapter)), 1)
    encoder = next(model for model in made if model.step == "encoder")
    assert {"peft/adapter_config.json", "peft/adapter_model.safetensors"} <= set(encoder.copies)
    assert parameter(made, "encoder", "peft") == "$$TRITON_MODEL_DIRECTORY/1/peft"


def test_a_step_reads_its_own_copy_wherever_its_folder_lies(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path / "bert")
    repository = tmp_path / "repo"
    add_models(with_copies(models(checkpoint), 1), repository)
    moved = repository.rename(tmp_path / "elsewhere")
    settings = read_settings(EncoderSettings, told(moved, "tiny_encoder", "1"))
    own = moved / "tiny_encoder" / "1" / "checkpoint"
    assert settings.checkpoint == str(own)
    assert snapshot(own) == {name: c for name, c in snapshot(checkpoint).items() if name in snapshot(own)}
    assert entry_named("tiny", moved).deployment.checkpoint == str(checkpoint)  # where it comes from


def test_each_version_has_its_own_copies(tmp_path: Path) -> None:
    checkpoint, repository = make_bert(tmp_path / "bert"), tmp_path / "repo"
    add_models(with_copies(models(checkpoint), 1), repository)
    add_version(with_copies(models(checkpoint), 2), repository, 2)
    for version in "12":
        settings = read_settings(EncoderSettings, told(repository, "tiny_encoder", version))
        assert settings.checkpoint == f"{repository}/tiny_encoder/{version}/checkpoint"
        assert (Path(settings.checkpoint) / "model.safetensors").is_file()


def test_links_of_the_hubs_cache_become_files(tmp_path: Path) -> None:
    blobs, snapshot_folder = make_bert(tmp_path / "blobs"), tmp_path / "snapshot"
    snapshot_folder.mkdir()
    for file in blobs.iterdir():
        (snapshot_folder / file.name).symlink_to(file)
    add_models(with_copies(models(snapshot_folder), 1), tmp_path / "repo")
    assert not [path for path in (tmp_path / "repo").rglob("*") if path.is_symlink()]


def test_how_much_is_copied_is_known_before(tmp_path: Path) -> None:
    made = with_copies(models(make_bert(tmp_path / "bert")), 1)
    add_models(made, tmp_path / "repo")
    copied = [path for path in (tmp_path / "repo").glob("*/1/checkpoint/*") if path.is_file()]
    assert bytes_of(made) == sum(path.stat().st_size for path in copied) > 100_000


@pytest.mark.parametrize("trust", [True, False])
def test_code_in_another_repository_of_the_hub_is_no_part_of_a_copy(tmp_path: Path, trust: bool) -> None:
    checkpoint = make_bert(tmp_path / "bert")
    config = json.loads((checkpoint / "config.json").read_text())
    write_json(checkpoint / "config.json", {**config, "auto_map": {"AutoModel": "maker/code--modeling.Model"}})
    made = models(checkpoint, trust_remote_code=trust)
    if not trust:
        assert bytes_of(with_copies(made, 1)) > 0
        return
    with pytest.raises(ToolError, match="has its code in maker/code, from which the server would fetch it"):
        with_copies(made, 1)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Stand in for the hub: one checkpoint; return what is asked of it."""
    asked: list[tuple[str, str | None]] = []

    def snapshot_download(name: str, *, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        if name != "maker/tiny":
            raise OSError("404 Client Error")
        return str(tmp_path / "bert")

    make_bert(tmp_path / "bert")
    module = ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_a_hub_name_is_fetched_in_its_revision_which_the_copy_then_has(hub: list[Any]) -> None:
    made = with_copies(build(facts(source="maker/tiny"), AddOptions(name="tiny", revision="v2")), 1)
    assert set(hub) == {("maker/tiny", "v2")}
    assert not [model.name for model in made if model.step and "revision" in model.config.parameters]
    assert made[0].config.parameters["revision"].string_value == "v2"


def test_what_the_hub_does_not_have_is_named(hub: list[Any]) -> None:
    with pytest.raises(ToolError, match="maker/other cannot be fetched from the hub: 404 Client Error"):
        with_copies(build(facts(source="maker/other"), AddOptions(name="tiny")), 1)
    assert hub


def test_without_the_hubs_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        ToolError, match=r"maker/tiny is to be fetched from the hub: pip install 'flagtriton\[server\]'"
    ):
        with_copies(build(facts(source="maker/tiny"), AddOptions(name="tiny")), 1)


@pytest.mark.parametrize("pool_in_encoder", [False, True], ids=["pooler", "encoder"])
def test_the_step_that_pools_brings_the_modules_behind_pooling(pool_in_encoder: bool, tmp_path: Path) -> None:
    checkpoint = make_sentence_transformer(tmp_path / "labse", make_bert, behind=[dense(48, 32)])
    repository = tmp_path / "repo"
    add_models(with_copies(models(checkpoint, pool_in_encoder=pool_in_encoder), 1), repository)
    found = {folder.name: set(snapshot(folder / "1" / "checkpoint")) for folder in repository.glob("*_*")}
    layer = {"2_Dense/config.json", "2_Dense/model.safetensors"}
    assert found["tiny_encoder"] >= {"modules.json", "1_Pooling/config.json", "2_Dense/config.json"}
    if pool_in_encoder:
        assert found["tiny_encoder"] >= layer
    else:
        assert found["tiny_pooler"] == {"1_Pooling", "1_Pooling/config.json", "2_Dense", *layer}
        assert "2_Dense/model.safetensors" not in found["tiny_encoder"]
    assert not any(name.startswith("2_Dense") for name in found["tiny_tokenizer"])


def test_the_folders_of_a_hub_names_modules_are_fetched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_sentence_transformer(tmp_path / "labse", make_bert, behind=[dense(48, 32)])
    made, fetched = models(whole), tmp_path / "fetched"

    def snapshot_download(
        name: str, *, revision: str | None, ignore_patterns: list[str] | None = None, allow_patterns: Any = ("*",)
    ) -> str:
        for file in whole.rglob("*"):
            path = str(file.relative_to(whole))
            ignored = any(fnmatch(path, pattern) for pattern in ignore_patterns or ())
            if file.is_file() and not ignored and any(fnmatch(path, pattern) for pattern in allow_patterns):
                (fetched / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, fetched / path)
        return str(fetched)

    module = ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    for model in made:
        if "checkpoint" in model.config.parameters:
            model.config.parameters["checkpoint"].string_value = "maker/labse"
    pooler = next(model for model in with_copies(made, 1) if model.step == "pooler")
    assert {"checkpoint/2_Dense/config.json", "checkpoint/2_Dense/model.safetensors"} <= set(pooler.copies)
