# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a checkpoint's files, told before anything reads them as tensors."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["check_files", "check_tokenizer"]

_LFS_POINTER = b"version https://git-lfs"
_MOST_HEADER = 100_000_000  # bytes, as the safetensors library allows
_ENCODERS = frozenset(["bert", "camembert", "roberta", "xlm-roberta"])
"""Architectures that are trained with the padding id of their own tokenizer."""


def check_files(checkpoint: str) -> None:
    """Raise where the weights of a local folder are not whole; a hub name's files are checked when they are fetched.

    Raises:
        ValueError: a shard is missing, a file is cut short or is only a pointer to one, or an index names a file
            outside the folder; names the file and what to do.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return
    tensors = sorted(folder.glob("*.safetensors"))
    indices = sorted(folder.glob("*.safetensors.index.json"))
    pickles = (
        [] if tensors or indices else sorted(folder.glob("pytorch_model*.bin"))
    )  # read where there is nothing else
    for index in indices or ([] if tensors else sorted(folder.glob("*.bin.index.json"))):
        for name in _shards(index):
            if not (folder / name).is_file():
                raise ValueError(f"{folder / name} is missing, which {index.name} names; download the checkpoint again")
    for file in tensors:
        _check_safetensors(file)
    for file in pickles:
        if not zipfile.is_zipfile(file) and not _is_legacy_pickle(file):
            raise ValueError(f"{file} is cut short or {_what_it_is(file)}; download it again")


def check_tokenizer(checkpoint: str, config: Mapping[str, Any], *, vocab_size: int, pad_token_id: int | None) -> None:
    """Raise where a tokenizer cannot be the one that a model was trained with.

    Args:
        checkpoint: both.
        config: the model's `config.json`.
        vocab_size: tokens of the tokenizer, without those added to it.
        pad_token_id: the tokenizer's.

    Raises:
        ValueError: it has more tokens than the model, or another padding id, which an encoder's positions and masks
            hang on.
    """
    rows = config.get("vocab_size")
    mend = "copy the tokenizer's files from the checkpoint that the model was made from"
    if isinstance(rows, int) and vocab_size > rows:
        raise ValueError(
            f"{checkpoint}: the tokenizer does not belong to the model: it has {vocab_size} tokens, the model {rows}; "
            f"{mend}"
        )
    own = config.get("pad_token_id")
    if config.get("model_type") in _ENCODERS and None not in (own, pad_token_id) and own != pad_token_id:
        raise ValueError(
            f"{checkpoint}: the tokenizer does not belong to the model: it pads with id {pad_token_id}, the model with "
            f"{own}; {mend}"
        )


def _shards(index: Path) -> list[str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{index} is no index of weights: {error}; download it again") from error
    for name in names:
        path = PurePosixPath(str(name))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{index} names {name!r}, outside its folder; that is no index to be trusted")
    return names


def _check_safetensors(file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(size - 8, _MOST_HEADER):
            raise ValueError(f"{file} is cut short or {_what_it_is(file)}; download it again")
        try:
            header = json.loads(opened.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{file} is damaged: its header cannot be read; download it again") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"{file} has {size} bytes, and by its header {expected}; download it again")


def _what_it_is(file: Path) -> str:
    with file.open("rb") as opened:
        is_pointer = opened.read(len(_LFS_POINTER)) == _LFS_POINTER
    return "only Git LFS's pointer to it (`git lfs pull` fetches it)" if is_pointer else "no file of its kind"


def _is_legacy_pickle(file: Path) -> bool:
    """Return whether it begins as PyTorch's files did before 1.6, whose end cannot be checked without reading them."""
    with file.open("rb") as opened:
        return opened.read(2) in (b"\x80\x02", b"\x80\x03", b"\x80\x04")
