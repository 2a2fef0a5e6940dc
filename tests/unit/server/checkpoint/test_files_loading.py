# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.checkpoint.files` by what loads a checkpoint: what is not whole is told before it is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flagtriton.protocol.settings import EncoderSettings, LayerwiseSettings
from flagtriton_server.layerwise.loading import load_decoder
from flagtriton_server.loading.encoder import load_encoder
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from tests.support.checkpoints.layerwise import make_layerwise
from tests.support.checkpoints.tiny import TEXTS, make_bert, make_xlm_roberta

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 1340616616\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    """Return a copy that may be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def load(checkpoint: Path) -> object:
    return load_encoder(EncoderSettings(str(checkpoint), 512, token_budget=64, precision="fp32"), torch.device("cpu"))


def write_index(checkpoint: Path, name: str) -> None:
    content = {"weight_map": {"embeddings.word_embeddings.weight": name}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")


def cut_short(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:80_000])


def pointed_to(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(POINTER)


def without_a_shard(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    write_index(checkpoint, "model-00001-of-00001.safetensors")


def pointing_outside(checkpoint: Path) -> None:
    shutil.move(checkpoint / "model.safetensors", checkpoint.parent / "model.safetensors")
    write_index(checkpoint, "../model.safetensors")


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (cut_short, r"model\.safetensors has 80000 bytes, and by its header \d+; download it again"),
        (pointed_to, "only Git LFS's pointer to it"),
        (without_a_shard, r"model-00001-of-00001\.safetensors is missing, which model\.safetensors\.index\.json names"),
        (pointing_outside, r"names '\.\./model\.safetensors', outside its folder"),
    ],
)
def test_an_encoder_whose_files_are_not_whole_is_not_loaded(
    checkpoint: Path, damage: Callable[[Path], None], cause: str
) -> None:
    damage(checkpoint)
    with pytest.raises(ValueError, match=cause):
        load(checkpoint)


def test_a_layered_reranker_whose_files_are_not_whole_is_not_loaded(tmp_path: Path) -> None:
    checkpoint = make_layerwise(tmp_path / "layerwise")
    cut_short(checkpoint)
    settings = LayerwiseSettings(str(checkpoint), "decoder-only-layerwise", max_length=64, token_budget=64)
    with pytest.raises(ValueError, match=r"model\.safetensors has 80000 bytes, and by its header"):
        load_decoder(settings, torch.device("cpu"))


def test_an_encoder_of_old_weights_is_loaded(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    torch.save(weights, checkpoint / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert load(checkpoint) is not None


def test_a_checkpoints_own_tokenizer_is_loaded(whole: Path) -> None:
    assert TextTokenizer.from_checkpoint(str(whole), None, trust_remote_code=False).pad_id == 0


def test_a_tokenizer_of_another_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = make_xlm_roberta(tmp_path / "other")
    for file in checkpoint.glob("tokenizer*"):
        shutil.copy(file, other / file.name)
    with pytest.raises(ValueError, match=r"other: the tokenizer does not belong to the model: it (has|pads)"):
        TextTokenizer.from_checkpoint(str(other), None, trust_remote_code=False)


def test_bert_may_have_a_tokenizer_that_pads_with_another_id(checkpoint: Path, tmp_path: Path) -> None:
    other = make_xlm_roberta(tmp_path / "other")
    for file in other.glob("tokenizer*"):
        shutil.copy(file, checkpoint / file.name)
    file = checkpoint / "config.json"
    rows = json.loads((other / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "vocab_size": rows}), encoding="utf-8")
    tokenizer = TextTokenizer.from_checkpoint(str(checkpoint), None, trust_remote_code=False)
    assert tokenizer.pad_id == 1
    assert tokenizer.bare_ids(TEXTS) == TextTokenizer.from_checkpoint(str(other), None, False).bare_ids(TEXTS)


def test_a_tokenizer_of_more_tokens_than_the_model_has_rows_is_refused(checkpoint: Path) -> None:
    file = checkpoint / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "vocab_size": config["vocab_size"] - 1}), encoding="utf-8")
    tokens = config["vocab_size"]
    with pytest.raises(ValueError, match=f"it has {tokens} tokens, the model {tokens - 1}; copy the tokenizer's files"):
        TextTokenizer.from_checkpoint(str(checkpoint), None, trust_remote_code=False)
