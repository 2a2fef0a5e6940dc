# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's two heads: one linear layer each, in separate files next to the weights. Code in a pickle is never run."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from flagtriton.protocol.settings import ColbertSettings, HeadSettings, ScorerSettings
from flagtriton_server.checkpoint.damaged_files import UNREADABLE
from flagtriton_server.checkpoint.lookup import FilesUnavailableError, file_finder
from flagtriton_server.engines.base import Precision
from flagtriton_server.engines.finite import check_loaded
from flagtriton_server.engines.torch_packed.fused_bert import FusedLinear
from flagtriton_server.packing.ragged import packed_length

__all__ = ["Head", "load_colbert_head", "load_head", "load_sparse_head"]

_ROWS_A_BLOCK = 256
"""Rows of one block of a head's input. With such blocks, a processor builds kernels for only 16 numbers of rows."""


@dataclass(frozen=True)
class Head:
    """A linear layer on its device."""

    linear: FusedLinear
    device: torch.device
    dtype: torch.dtype

    def __call__(self, states: Tensor) -> Tensor:
        """Return `[N, C]` in the head's dtype, for hidden states `[N, D]`."""
        states = states.to(device=self.device, dtype=self.dtype)
        if self.device.type == "cuda":
            return self.linear(states)
        return torch.cat([self._block(block) for block in states.split(_ROWS_A_BLOCK)])

    def _block(self, rows: Tensor) -> Tensor:
        filled = rows.new_zeros(packed_length(len(rows)), rows.shape[1])
        filled[: len(rows)] = rows
        return self.linear(filled)[: len(rows)]


def load_sparse_head(settings: HeadSettings, precision: Precision, device: torch.device) -> Head:
    """Return the head of the sparse output, loaded by `load_head`.

    It computes in float32 in every precision of the encoder. One product for each token costs nothing, and half
    precision would leave the weights three digits. The head may also run on a processor after an encoder on a GPU.
    """
    return load_head(settings, "sparse_linear", 1, replace(precision, computed=torch.float32), device)


def load_colbert_head(settings: ColbertSettings | ScorerSettings, precision: Precision, device: torch.device) -> Head:
    """Return the head of the ColBERT output, loaded by `load_head`, in the encoder's dtype."""
    return load_head(settings, "colbert_linear", settings.colbert_dim, precision, device)


def load_head(
    settings: HeadSettings, name: str, out_features: int | None, precision: Precision, device: torch.device
) -> Head:
    """Return a head of a checkpoint, rounded like the weights of its encoder.

    Args:
        settings: settings that name the checkpoint.
        name: name of the head's file, without the suffix: `sparse_linear` or `colbert_linear`.
        out_features: C that the deployment expects; None accepts that of the file.
        precision: precision of the encoder.
        device: device on which the head computes.

    Raises:
        ValueError: there is no such file; it cannot be read without running code; it does not fit; or its values are
            not finite in the encoder's precision. The message names the file.
    """
    file = _first_file(settings, [f"{name}.safetensors", f"{name}.pt"])
    config = json.loads(_first_file(settings, ["config.json"]).read_text(encoding="utf-8"))
    weight, bias = (
        tensor.to(precision.stored) for tensor in _checked(file, _read(file), (out_features, config.get("hidden_size")))
    )
    check_loaded(str(file), (("weight", weight), ("bias", bias)), precision.name)
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = (
        nn.Parameter(tensor.to(device=device, dtype=precision.computed), requires_grad=False)
        for tensor in (weight, bias)
    )
    return Head(FusedLinear([linear]), device, precision.computed)


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as tensors alone: {error}") from error


def _checked(file: Path, content: object, expected: tuple[int | None, int | None]) -> tuple[Tensor, Tensor]:
    """Return weight `[C, D]` and bias `[C]`."""
    tensors = content if isinstance(content, dict) else {}
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor) or weight.ndim != 2:
        found = ", ".join(map(str, tensors)) or type(content).__name__
        raise ValueError(f"{file} holds {found}; expected a linear layer's 'weight' [C, D] and 'bias' [C]")
    shape = (expected[0] or weight.shape[0], expected[1] or weight.shape[1])
    if tuple(weight.shape) != shape or bias.shape != shape[:1]:
        another = shape[0] > 1 and weight.shape[0] != shape[0]
        advice = f"; if that is right, add it again with --colbert-dim {weight.shape[0]}" if another else ""
        raise ValueError(
            f"{file} has weight {list(weight.shape)} and bias {list(bias.shape)}; "
            f"expected {list(shape)} and {list(shape[:1])}{advice}"
        )
    return weight, bias


def _first_file(settings: HeadSettings, names: list[str]) -> Path:
    """Return the first of several files that the checkpoint has. A file on the hub is fetched."""
    find = file_finder(settings.checkpoint, settings.revision)
    for name in names:
        with suppress(FilesUnavailableError):
            if (file := find(name)) is not None:
                return file
    raise ValueError(
        f"{settings.checkpoint} has neither {' nor '.join(names)} that could be found or fetched, without which it is "
        "no BGE-M3; copy it beside the weights, or serve dense vectors alone: "
        "flagtriton add … --model-class encoder-only-base"
    )
