# SPDX-License-Identifier: Apache-2.0
"""Deployments that contain their checkpoint: each step's folder gets a copy of the files that the step reads.

Triton downloads only the model's folder from a bucket, to a path that Triton chooses. So a step can reach only files
below its folder, and two steps that read the same file have one copy each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from flagtriton.protocol.parameters import MODEL_DIRECTORY
from flagtriton_server.checkpoint.weight_files import weight_files
from flagtriton_tools.deploy.options import Model
from flagtriton_tools.deploy.pbtxt import string_parameters
from flagtriton_tools.deploy.sentence_transformers_files import module_folders
from flagtriton_tools.errors import ToolError

__all__ = ["bytes_of", "with_copies"]

_READ_ALL = frozenset(["encoder", "layerwise_encoder", "reranker_scorer"])
"""Steps that read weights; the others read a tokenizer or BGE-M3's heads."""

_HEADS = ("sparse_linear", "colbert_linear")
_TENSORS = frozenset(
    [
        ".safetensors",
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".h5",
        ".msgpack",
        ".onnx",
        ".onnx_data",
        ".gguf",
        ".tflite",
        ".ot",
    ]
)
"""Suffixes of files that may have gigabytes. SentencePiece's vocabularies end in `.model` and are small."""


def with_copies(models: Sequence[Model], version: int) -> list[Model]:
    """Return the models of a deployment with the checkpoint files to copy, and with parameters that name the copies.

    Args:
        models: result of `deploy.build.build`.
        version: number of the version's folder.

    Raises:
        ToolError: a checkpoint or adapter is no folder and cannot be downloaded, or its code is in another repository.
    """
    local = cache(_local)  # one download for all steps
    return [model if model.step is None else _with_copies(model, model.step, version, local) for model in models]


def bytes_of(models: Sequence[Model]) -> int:
    """Return the size of the files to copy, in bytes."""
    return sum(source.stat().st_size for model in models for source in model.copies.values())


def _with_copies(model: Model, step: str, version: int, local: Callable[[str, str | None], Path]) -> Model:
    config = ModelConfig()
    config.CopyFrom(model.config)
    parameters = string_parameters(config)
    copies: dict[str, Path] = {}
    for name in ("checkpoint", "peft"):
        if name not in parameters:
            continue
        folder = local(parameters[name], parameters.get("revision") if name == "checkpoint" else None)
        if parameters.get("trust_remote_code") == "true" and name == "checkpoint":
            _check_code(folder)
        found = _files(folder) if name == "peft" else _files_read(folder, step, pools="modules" in parameters)
        copies |= {f"{name}/{file.relative_to(folder)}": file.resolve() for file in found}
        config.parameters[name].string_value = f"{MODEL_DIRECTORY}/{version}/{name}"
    if "revision" in parameters:
        del config.parameters["revision"]  # the copies are of that revision
    return replace(model, config=config, copies=copies)


def _files_read(folder: Path, step: str, *, pools: bool) -> list[Path]:
    """Return the files of a checkpoint that a step reads. With `pools` they include the Dense layers after pooling."""
    own = [file for name in module_folders(folder) if (folder / name).is_dir() for file in _files(folder / name)]
    modules = own if pools else [file for file in own if file.suffix not in _TENSORS]
    if step == "pooler":
        return modules
    return _files_of_model(folder, step) + (modules if step == "encoder" else [])


def _files_of_model(folder: Path, step: str) -> list[Path]:
    files = _files(folder)
    small = [file for file in files if file.suffix not in _TENSORS]
    if step not in _READ_ALL:
        wanted = () if step == "tokenizer" else _HEADS
        return small + [file for file in files if file.stem in wanted]
    return small + _weights(folder)


def _weights(folder: Path) -> list[Path]:
    """Return only the files that the weights are read from. Other formats may add gigabytes."""
    try:
        files = weight_files(folder)
    except ValueError as error:
        raise ToolError(str(error)) from error
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ToolError(f"{missing[0]} is missing, which the index of {folder} names; download the checkpoint again")
    return files


def _check_code(folder: Path) -> None:
    """Raise if a checkpoint's code lies in another repository of the hub, as a copy of this one does not hold it."""
    config = folder / "config.json"
    code = json.loads(config.read_text(encoding="utf-8")).get("auto_map", {}) if config.is_file() else {}
    elsewhere = sorted({str(name).partition("--")[0] for name in code.values() if "--" in str(name)})
    if elsewhere:
        raise ToolError(
            f"{folder} has its code in {elsewhere[0]}, from which the server would fetch it; copy those files beside "
            "the weights and leave out what stands before -- in its config.json"
        )


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def _local(source: str, revision: str | None) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ToolError(f"{source} is to be fetched from the hub: pip install 'flagtriton[server]' first") from error
    try:
        folder = Path(snapshot_download(source, revision=revision, ignore_patterns=["*/*"]))
        modules = [f"{name}/*" for name in module_folders(folder)]
        return Path(snapshot_download(source, revision=revision, allow_patterns=modules)) if modules else folder
    except Exception as error:  # the hub's errors have no common base class
        raise ToolError(f"{source} cannot be fetched from the hub: {error}") from error
