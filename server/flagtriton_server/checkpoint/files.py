# SPDX-License-Identifier: Apache-2.0
"""Checks for faults in the files of a checkpoint, made before the files are read as tensors."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagtriton.protocol.architectures import architecture_of
from flagtriton_server.checkpoint.weight_files import ADAPTER, adapter_base, shard_names, weights_entry

__all__ = ["check_files", "check_tokenizer", "two_sets_of_weights"]

_LFS_POINTER = b"version https://git-lfs"
_MOST_HEADER = 100_000_000  # bytes
"""Largest header of a safetensors file, the limit of the safetensors library."""


def check_files(checkpoint: str) -> None:
    """Raise if the weights of a local folder are not complete. Files of a hub name are checked when they are fetched.

    Only files that are read are checked. An old index next to the `model.safetensors` that it once named is therefore
    no fault.

    Raises:
        ValueError: a shard is missing, or a file is cut short or is only a pointer. Or an index names a file outside
            the folder, or a PEFT adapter lies next to the weights. The message names the file and a remedy.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return
    if (base := adapter_base(folder)) is not None and weights_entry(folder) is not None:
        raise ValueError(two_sets_of_weights(folder, base))
    for file in _files_to_check(folder):
        if file.suffix == ".safetensors":
            _check_safetensors(file)
        elif not zipfile.is_zipfile(file) and not _is_legacy_pickle(file):
            raise ValueError(f"{file} is cut short or {_what_it_is(file)}; download it again")


def two_sets_of_weights(checkpoint: str | Path, base: str) -> str:
    """Return the error message for a folder that holds the weights of a model and a PEFT adapter for a base model."""
    return (
        f"{checkpoint} holds the weights of a model and a PEFT adapter of {base}; transformers would apply the adapter "
        f"only where peft is installed. Move {ADAPTER} and adapter_model.* to a separate folder, and name that "
        "with --peft if the adapter is not merged into the weights yet"
    )


def _files_to_check(folder: Path) -> list[Path]:
    """Return the files that weights are read from; if transformers would find none, all that look like weights."""
    entry = weights_entry(folder)
    if entry is not None and not entry.name.endswith(".index.json"):
        return [entry]
    indices = [entry] if entry is not None else sorted(folder.glob("*.index.json"))
    for index in indices:
        for name in shard_names(index):
            if not (folder / name).is_file():
                raise ValueError(f"{folder / name} is missing, which {index.name} names; download the checkpoint again")
    if indices:
        return [folder / name for index in indices for name in shard_names(index)]
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def check_tokenizer(checkpoint: str, config: Mapping[str, Any], *, vocab_size: int, pad_token_id: int | None) -> None:
    """Raise if a tokenizer cannot be the one that a model was trained with.

    The padding ids are compared only for architectures whose positions depend on the padding id. BERT is not one of
    them: multilingual-e5-small has XLM-RoBERTa's tokenizer, which pads with 1, and BERT's default `pad_token_id` of 0.

    Args:
        checkpoint: the checkpoint that has both.
        config: `config.json` of the model.
        vocab_size: number of tokens of the tokenizer, without added tokens.
        pad_token_id: padding id of the tokenizer.

    Raises:
        ValueError: it has more tokens than the model, or another padding id where positions depend on that id.
    """
    rows = config.get("vocab_size")
    mend = "copy the tokenizer's files from the checkpoint that the model was made from"
    if isinstance(rows, int) and vocab_size > rows:
        raise ValueError(
            f"{checkpoint}: the tokenizer does not belong to the model: it has {vocab_size} tokens, the model {rows}; "
            f"{mend}"
        )
    own = config.get("pad_token_id")
    shares = architecture_of(config.get("model_type")).shares_padding_id
    if shares and None not in (own, pad_token_id) and own != pad_token_id:
        raise ValueError(
            f"{checkpoint}: the tokenizer does not belong to the model: it pads with id {pad_token_id}, the model with "
            f"{own}; {mend}"
        )


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
    """Return whether a file begins like the files of PyTorch before 1.6.

    The end of such a file cannot be checked without reading the whole file.
    """
    with file.open("rb") as opened:
        return opened.read(2) in (b"\x80\x02", b"\x80\x03", b"\x80\x04")
