# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.checkpoint.files`: files that are missing, cut short, pointers, or of two checkpoints."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flagtriton_server.checkpoint.files import check_files, check_tokenizer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 1340616616\n"
TENSORS = {"a": torch.arange(6, dtype=torch.float32), "b": torch.ones(2, 2, dtype=torch.float16)}  # 24 + 8 bytes


def write_index(folder: Path, *names: Any, index: str = "model.safetensors.index.json") -> Path:
    content = {"metadata": {}, "weight_map": {f"tensor.{number}": name for number, name in enumerate(names)}}
    (folder / index).write_text(json.dumps(content), encoding="utf-8")
    return folder / index


def said(folder: Path) -> str:
    with pytest.raises(ValueError) as refused:
        check_files(str(folder))
    return str(refused.value)


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


# Whole files.


def test_whole_files_pass(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file(TENSORS, tmp_path / f"model-0000{number}-of-00002.safetensors", {"format": "pt"})
    write_index(tmp_path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    check_files(str(tmp_path))


def test_a_file_of_no_tensors_is_whole(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    check_files(str(tmp_path))


def test_a_folder_without_weights_is_for_others_to_refuse(tmp_path: Path) -> None:
    check_files(str(tmp_path))


@pytest.mark.parametrize("name", ["BAAI/bge-m3", "gone/nowhere"])
def test_a_hub_name_is_not_looked_at(name: str) -> None:
    check_files(name)


def test_files_of_another_kind_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "notes.bin").write_bytes(b"x")
    (tmp_path / "colbert_linear.pt").write_bytes(b"x")
    check_files(str(tmp_path))


def test_weights_of_before_pytorch_1_6_pass(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    check_files(str(tmp_path))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_protocol_of_old_weights_passes(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(pickle.dumps({"a": 1}, protocol))
    check_files(str(tmp_path))


# Files that are not whole.


@pytest.mark.parametrize("missing", [1, 8, 31, 32])
def test_tensors_that_are_cut_short_are_told_by_their_bytes(tmp_path: Path, missing: int) -> None:
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    whole = file.stat().st_size
    cut(file, whole - missing)
    assert said(tmp_path) == (f"{file} has {whole - missing} bytes, and by its header {whole}; download it again")


def test_bytes_behind_the_last_tensor_are_told_too(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    whole = file.stat().st_size
    file.write_bytes(file.read_bytes() + b"x")
    assert said(tmp_path) == f"{file} has {whole + 1} bytes, and by its header {whole}; download it again"


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 50])
def test_a_header_that_is_cut_short_is_told(tmp_path: Path, size: int) -> None:
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    cut(file, size)
    assert said(tmp_path) == f"{file} is cut short or no file of its kind; download it again"


@pytest.mark.parametrize(
    "header", [b"{not json}", b"[1, 2]", b'{"a": 1}', b'{"a": {}}', b'{"a": {"data_offsets": [0]}}', b"\xff\xff"]
)
def test_a_header_that_cannot_be_read_is_told(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    assert said(tmp_path) == f"{file} is damaged: its header cannot be read; download it again"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_a_pointer_of_git_lfs_is_told_with_what_fetches_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(POINTER)
    assert said(tmp_path) == (
        f"{tmp_path / name} is cut short or only Git LFS's pointer to it (`git lfs pull` fetches it); download it again"
    )


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_weights_of_pytorchs_that_are_cut_short_are_told(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, file)
    cut(file, keep if keep >= 0 else file.stat().st_size - 30)
    assert said(tmp_path) == f"{file} is cut short or no file of its kind; download it again"


def test_a_pointer_beside_whole_tensors_that_are_read_in_its_place_is_no_fault(tmp_path: Path) -> None:
    # As `git lfs pull --include '*.safetensors'` leaves it.
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(POINTER)
    check_files(str(tmp_path))


def test_an_index_of_shards_that_are_not_there_beside_whole_tensors_is_no_fault(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    write_index(tmp_path, "pytorch_model-00001-of-00002.bin", index="pytorch_model.bin.index.json")
    check_files(str(tmp_path))


# Shards.


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_shard_that_is_missing_is_told_with_what_names_it(tmp_path: Path, kind: str) -> None:
    names = [f"model-0000{number}-of-00003.{kind}" for number in (1, 2, 3)]
    index = write_index(tmp_path, *names, index=f"model.{kind}.index.json")
    for name in (names[0], names[2]):
        save_file(TENSORS, tmp_path / name)
    assert (
        said(tmp_path) == f"{tmp_path / names[1]} is missing, which {index.name} names; download the checkpoint again"
    )


def test_a_shard_that_is_cut_short_is_told(tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    write_index(tmp_path, *names)
    for name in names:
        save_file(TENSORS, tmp_path / name)
    whole = (tmp_path / names[1]).stat().st_size
    cut(tmp_path / names[1], whole - 1)
    assert said(tmp_path).startswith(f"{tmp_path / names[1]} has {whole - 1} bytes, and by its header {whole};")


def test_shards_may_be_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    save_file(TENSORS, tmp_path / "weights" / "a.safetensors")
    write_index(tmp_path, "weights/a.safetensors")
    check_files(str(tmp_path))


@pytest.mark.parametrize("name", ["../x.safetensors", "a/../../x.safetensors", "..", "/etc/x.safetensors"])
def test_an_index_that_leaves_its_folder_is_not_trusted_though_the_file_is_there(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file(TENSORS, tmp_path / "x.safetensors")
    index = write_index(folder, name)
    assert said(folder) == f"{index} names {name!r}, outside its folder; that is no index to be trusted"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": []}}', '{"weight_map": {"a": 1, "b": ""}}'],
)
def test_an_index_that_is_none_is_told(tmp_path: Path, content: str) -> None:
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(content, encoding="utf-8")
    assert said(tmp_path).startswith(f"{file} is no index of weights: ")
    assert said(tmp_path).endswith("; download it again")


# Tokenizers.

BERT = {"model_type": "bert", "vocab_size": 30_522, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("config", "vocab_size", "pad_token_id"),
    [
        (BERT, 30_522, 0),
        (BERT, 100, 0),
        (BERT, 30_522, None),
        ({**BERT, "pad_token_id": None}, 30_522, 1),
        ({"model_type": "bert"}, 10**6, 0),
        (BERT, 30_522, 1),  # multilingual-e5-small: BERT with XLM-RoBERTa's tokenizer
        ({**BERT, "model_type": "qwen2"}, 30_522, 7),  # decoders are told where a text ends in other ways
    ],
)
def test_a_tokenizer_that_may_be_the_models_passes(
    config: dict[str, Any], vocab_size: int, pad_token_id: int | None
) -> None:
    check_tokenizer("here", config, vocab_size=vocab_size, pad_token_id=pad_token_id)


def test_a_tokenizer_of_more_tokens_than_the_model_is_told() -> None:
    with pytest.raises(ValueError) as refused:
        check_tokenizer("here", BERT, vocab_size=250_002, pad_token_id=1)
    assert str(refused.value) == (
        "here: the tokenizer does not belong to the model: it has 250002 tokens, the model 30522; copy the tokenizer's "
        "files from the checkpoint that the model was made from"
    )


@pytest.mark.parametrize("family", ["camembert", "roberta", "xlm-roberta"])
def test_an_encoders_tokenizer_that_pads_otherwise_is_told(family: str) -> None:
    with pytest.raises(ValueError) as refused:
        check_tokenizer("here", {**BERT, "model_type": family}, vocab_size=100, pad_token_id=1)
    assert str(refused.value) == (
        "here: the tokenizer does not belong to the model: it pads with id 1, the model with 0; copy the tokenizer's "
        "files from the checkpoint that the model was made from"
    )
