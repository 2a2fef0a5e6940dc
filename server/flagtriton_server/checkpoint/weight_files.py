# SPDX-License-Identifier: Apache-2.0
"""Determines the files that a checkpoint's weights are read from, if there are several candidates. Reads no weights.

transformers takes the first file that exists, in this order: the file that `config.json` names as
`transformers_weights`, `model.safetensors`, its index, `pytorch_model.bin`, its index. It does not read other files in
the folder.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["ADAPTER", "WEIGHT_FILES", "adapter_base", "shard_names", "unread_weights", "weight_files", "weights_entry"]

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files that weights are read from; the first that exists is used."""

ADAPTER = "adapter_config.json"
"""The file that marks the folder of a PEFT adapter."""

_INDEX = ".index.json"
_UNREAD = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf")
_FRAMEWORKS = {".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX", ".gguf": "llama.cpp"}
_NO_MODEL = frozenset(["adapter_model", "sparse_linear", "colbert_linear", "training_args", "optimizer", "scheduler"])
"""Files, without their suffix, that hold tensors or pickles but not the weights of a model."""


def weights_entry(folder: Path) -> Path | None:
    """Return the file or index from which transformers reads a local checkpoint's weights; None if there is none."""
    named = _read(folder / "config.json").get("transformers_weights")
    names = (named,) if isinstance(named, str) else WEIGHT_FILES
    return next((folder / name for name in names if (folder / name).is_file()), None)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold those weights: one file, or the shards of an index, which may be missing.

    Raises:
        ValueError: the index is no valid index, or it names a file outside the folder.
    """
    entry = weights_entry(folder)
    if entry is None:
        return []
    return [folder / name for name in shard_names(entry)] if entry.name.endswith(_INDEX) else [entry]


def shard_names(index: Path) -> list[str]:
    """Return the files that an index names, relative to its folder.

    Raises:
        ValueError: the file is no index, or it names a file outside its folder.
    """
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


def adapter_base(folder: Path) -> str | None:
    """Return the checkpoint that a folder's PEFT adapter belongs to, or `its base model` if the adapter names none.

    The result is None if the folder holds no adapter.
    """
    if not (folder / ADAPTER).is_file():
        return None
    return str(_read(folder / ADAPTER).get("base_model_name_or_path") or "its base model")


def unread_weights(folder: Path) -> str | None:
    """Return advice about weights in files that are not read; None if there are no such files."""
    found = sorted(
        {
            str(file.relative_to(folder))
            for pattern in _UNREAD
            for depth in ("", "*/")
            for file in folder.glob(depth + pattern)
            if file.stem not in _NO_MODEL
        }
    )
    if not found:
        return None
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return f"there is {shown}; {_advice(folder, found)}"


def _advice(folder: Path, found: list[str]) -> str:
    read = [name for name in found if PurePosixPath(name).suffix in (".safetensors", ".bin")]
    below = sorted(name for name in read if PurePosixPath(name).name in WEIGHT_FILES)
    if below:
        return f"add {folder / PurePosixPath(below[0]).parent}, if that is the checkpoint"
    for name in read:
        base, _, suffix = PurePosixPath(name).name.partition(".")
        if base in ("model", "pytorch_model") and suffix.count("."):
            return f"{name} is a variant: rename it to {base}{PurePosixPath(name).suffix}"
    kinds = sorted({_FRAMEWORKS[kind] for name in found if (kind := PurePosixPath(name).suffix) in _FRAMEWORKS})
    if kinds and not read:
        return (
            f"weights of {' and '.join(kinds)} are not read: download the checkpoint's PyTorch weights, or save them "
            "with transformers' save_pretrained"
        )
    return "save the model with transformers' save_pretrained, which writes model.safetensors"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # code that needs the file reports the fault
    return content if isinstance(content, dict) else {}
