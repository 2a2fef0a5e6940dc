# SPDX-License-Identifier: Apache-2.0
"""The modules of sentence-transformers after the pooling: Dense layers, and Normalize between two of them.

Code in a pickle is never run. The modules compute in float32 in every precision of the encoder, because one product for
each text costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from flagtriton_server.checkpoint.damaged_files import UNREADABLE
from flagtriton_server.checkpoint.lookup import FileFinder, file_finder
from flagtriton_server.engines.finite import check_loaded
from flagtriton_server.sentence_transformers.activations import OVER_COMPONENTS
from flagtriton_server.sentence_transformers.definition import NORMALIZE, DenseModule, dense_module

__all__ = ["load_chain"]

_Step: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DenseLayer:
    """`activation(x @ weight.T + bias)`, plus x or its projection if there is a residual.

    Attributes:
        weight: `[C, D]` float32.
        bias: `[C]` or None.
        activation: function of `[B, C]`; a GLU halves the components.
        residual: weights `[C, D]` of the projection of x that is added. An empty one adds x itself; None adds nothing.
    """

    weight: Tensor
    bias: Tensor | None
    activation: _Step
    residual: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return `[B, C]`, or `[B, C / 2]` with a GLU, for x `[B, D]`, both float32."""
        out = self.activation(functional.linear(x, self.weight, self.bias))
        if self.residual is None:
            return out
        return out + (functional.linear(x, self.residual) if self.residual.numel() else x)


@dataclass(frozen=True)
class ModuleChain:
    """The modules that follow pooling, in order; possibly none."""

    steps: Sequence[_Step] = ()

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return `[B, C]` float32 for pooled vectors `[B, D]` on the processor; without steps, unchanged vectors."""
        for step in self.steps:
            vectors = step(vectors.float())
        return vectors


def load_chain(modules: str | None, checkpoint: str | None, revision: str | None) -> ModuleChain:
    """Return the modules that the settings of a step name.

    Args:
        modules: `Dense:` and a folder, or `Normalize`, for each module, separated by commas; None is no module.
        checkpoint: local folder or hub name that has these folders.
        revision: revision of a hub name.

    Raises:
        ValueError: a module's files are missing, cannot be read as tensors alone, or do not fit; the message names the
            file.
    """
    if modules is None:
        return ModuleChain()
    find = file_finder(checkpoint or "", revision)
    return ModuleChain([_step(part, find) for part in modules.split(",")])


def _step(part: str, find: FileFinder) -> _Step:
    if part == NORMALIZE:
        return functional.normalize
    kind, _, path = part.partition(":")
    if kind != "Dense":
        raise ValueError(f"modules has {part!r}; expected Dense: and a folder, or {NORMALIZE}")
    return _dense(dense_module(find, path), find)


def _dense(module: DenseModule, find: FileFinder) -> DenseLayer:
    file = find(f"{module.path}/model.safetensors") or find(f"{module.path}/pytorch_model.bin")
    if file is None:
        raise ValueError(f"{module.path} has neither model.safetensors nor pytorch_model.bin; download it again")
    shape = [module.out_features, module.in_features]
    expected = {"linear.weight": shape, **({"linear.bias": shape[:1]} if module.bias else {})}
    projects = module.residual and module.in_features != module.out_features
    if projects:
        expected["residual.weight"] = shape
    tensors = _checked(file, _read(file), expected)
    own = torch.empty(0) if module.residual else None
    return DenseLayer(
        tensors["linear.weight"], tensors.get("linear.bias"), _activation(module), tensors.get("residual.weight", own)
    )


def _activation(module: DenseModule) -> _Step:
    name = module.activation.rpartition(".")[2]
    chosen = getattr(nn, name)(**({"dim": -1} if name in OVER_COMPONENTS else {}))
    activation: _Step = chosen.eval()  # in training mode, an RReLU's slope is random
    return activation


def _read(file: Path) -> object:
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as tensors alone: {error}") from error


def _checked(file: Path, content: object, expected: dict[str, list[int]]) -> dict[str, Tensor]:
    """Return the tensors in float32, after a check that all are finite and have the expected shapes."""
    tensors = content if isinstance(content, dict) else {}
    found = {name: list(tensor.shape) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    if found != expected or len(found) != len(tensors):
        raise ValueError(f"{file} holds {found or type(content).__name__}; its config.json expects {expected}")
    check_loaded(str(file), tensors.items(), "fp32")
    return {name: tensor.float() for name, tensor in tensors.items()}
