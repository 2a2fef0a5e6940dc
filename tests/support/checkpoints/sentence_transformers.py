# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints as sentence-transformers lays them out: in its older files, or written by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["dense", "make_sentence_transformer", "resaved", "write"]

Module = tuple[str, dict[str, Any]]
"""A class's name and its configuration."""

LEGACY_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "last_token": "pooling_mode_lasttoken",
}
"""The older files' flag of each pooling."""


def write(path: Path, content: Any) -> None:
    """Write JSON, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def dense(in_features: int, out_features: int, activation: str = "activation.Tanh", **more: Any) -> Module:
    """Return a Dense module's entry; the activation is named below `torch.nn.modules`."""
    sizes = {"in_features": in_features, "out_features": out_features}
    return "Dense", {**sizes, "bias": True, "activation_function": f"torch.nn.modules.{activation}", **more}


def make_sentence_transformer(
    folder: Path,
    make: Callable[[Path], Path],
    *,
    pooling: Sequence[str] = ("mean",),
    include_prompt: bool | None = None,
    behind: Sequence[Module] = (("Normalize", {}),),
    transformer: Mapping[str, Any] | None = None,
    prompts: Mapping[str, Any] | None = None,
    pickled: bool = False,
) -> Path:
    """Write a checkpoint in the layout of sentence-transformers 2; return its folder.

    Args:
        folder: made.
        make: writes the transformer, 48 wide.
        pooling: the poolings that are switched on.
        include_prompt: as the file has it; None leaves it out.
        behind: the modules behind the pooling, Dense layers with random weights.
        transformer: of `sentence_bert_config.json`; None is no such file.
        prompts: of `config_sentence_transformers.json`, likewise.
        pickled: Dense weights are in `pytorch_model.bin`.
    """
    make(folder)
    flags = {flag: name in pooling for name, flag in LEGACY_FLAGS.items()}
    told = {} if include_prompt is None else {"include_prompt": include_prompt}
    modules: list[Module] = [("Pooling", {"word_embedding_dimension": 48, **flags, **told}), *behind]
    paths = [f"{index}_{kind}" for index, (kind, _) in enumerate(modules, start=1)]
    listed = [("Transformer", ""), *((kind, path) for (kind, _), path in zip(modules, paths, strict=True))]
    write(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, path) in enumerate(listed)
        ],
    )
    for (kind, config), path in zip(modules, paths, strict=True):
        if config:
            write(folder / path / "config.json", config)
        if kind == "Dense":
            _save_dense(folder / path, config, pickled=pickled)
    if transformer is not None:
        write(folder / "sentence_bert_config.json", dict(transformer))
    if prompts is not None:
        write(folder / "config_sentence_transformers.json", dict(prompts))
    return folder


def resaved(folder: Path, target: Path) -> Path:
    """Write a copy of a checkpoint as this sentence-transformers saves it; return its folder."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(folder), device="cpu").save(str(target))
    return target


def _save_dense(folder: Path, config: Mapping[str, Any], *, pickled: bool) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(len(str(folder.name)) + config["out_features"])
    shape = config["out_features"], config["in_features"]
    tensors = {"linear.weight": torch.randn(*shape, generator=generator) * 0.3}
    if config.get("bias", True):
        tensors["linear.bias"] = torch.randn(shape[0], generator=generator)
    if config.get("use_residual") and shape[0] != shape[1]:
        tensors["residual.weight"] = torch.randn(*shape, generator=generator) * 0.3
    if pickled:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
