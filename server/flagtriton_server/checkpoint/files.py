# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a checkpoint's files, told before anything reads them as tensors."""

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
_MOST_HEADER = 100_000_000  # bytes, as the safetensors library allows
"""Architectures whose positions hang on the padding id. BERT's do not: multilingual-e5-small has XLM-RoBERTa's
tokenizer, which pads with 1, and BERT's default `pad_token_id` of 0."""


def check_files(checkpoint: str) -> None:
    """Raise where the weights of a local folder are not whole; a hub name's files are checked when they are fetched.

    Only what is read is looked at: an index left over beside the `model.safetensors` that it once named is no fault.

    Raises:
        ValueError: a shard is missing, a file is cut short or is only a pointer to one, an index names a file outside
            the folder, or a PEFT adapter lies beside the weights; names the file and what to do.
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
    """Return what is said of a folder that holds a model's weights and a PEFT adapter of a base."""
    return (
        f"{checkpoint} holds the weights of a model and a PEFT adapter of {base}; transformers would apply the adapter "
        f"only where peft is installed. Move {ADAPTER} and adapter_model.* to a separate folder, and name that "
        "with --peft if the adapter is not merged into the weights yet"
    )


def _files_to_check(folder: Path) -> list[Path]:
    """Return the files that weights are read from; where transformers would find none, all that look like some."""
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
    """Raise where a tokenizer cannot be the one that a model was trained with.

    Args:
        checkpoint: both.
        config: the model's `config.json`.
        vocab_size: tokens of the tokenizer, without those added to it.
        pad_token_id: the tokenizer's.

    Raises:
        ValueError: it has more tokens than the model, or another padding id where positions hang on that.
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
    """Return whether it begins as PyTorch's files did before 1.6, whose end cannot be checked without reading them."""
    with file.open("rb") as opened:
        return opened.read(2) in (b"\x80\x02", b"\x80\x03", b"\x80\x04")
