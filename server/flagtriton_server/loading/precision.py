# SPDX-License-Identifier: Apache-2.0
"""The accuracy of deployments in fp32: exact rotary angles, and matrix products without intermediate rounding.

A rotary angle is a position times a frequency. Rounded to float32, it is wrong by up to half a unit of its last digit:
by 1.5e-5 at position 500. That is the greatest error of a decoder's vectors in float32, a hundred times that of a
product. In float64, the angles cost a sine and a cosine of d / 2 numbers for each token.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

__all__ = ["ExactRotary", "compute_in_full", "with_exact_angles"]

_FIXED_FREQUENCIES = frozenset(["default", "linear", "llama3", "yarn", "proportional"])
"""Kinds of rotary embeddings whose frequencies do not depend on the length of a text."""


class ExactRotary(nn.Module):
    """Rotary embeddings (Su et al., "RoFormer", 2021) with angles in float64, in place of those of transformers.

    Args:
        rotary: rotary embeddings of transformers. Their frequencies stay unchanged, rounded to float32. If kinds of
            layers have different frequencies, like ModernBERT's local and global layers, each call names the kind.
    """

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        kinds = rotary.rope_type if isinstance(rotary.rope_type, dict) else {"": rotary.rope_type}
        self._scaling: dict[str, float] = {}
        for kind in kinds:
            prefix = f"{kind}_" if kind else ""
            self.register_buffer(f"{prefix}inv_freq", getattr(rotary, f"{prefix}inv_freq"), persistent=False)
            self._scaling[kind] = getattr(rotary, f"{prefix}attention_scaling")

    def forward(self, x: Tensor, position_ids: Tensor, layer_type: str = "") -> tuple[Tensor, Tensor]:
        """Return cosines and sines `[1, N, d]` in x's dtype, for position ids `[1, N]`."""
        frequencies = getattr(self, f"{layer_type}_inv_freq" if layer_type else "inv_freq")  # [d / 2]
        angles = position_ids[..., None].double() * frequencies.to(x.device).double()  # [1, N, d / 2]
        scaling = self._scaling[layer_type]
        cosines, sines = (part.mul(scaling).to(x.dtype) for part in (angles.cos(), angles.sin()))
        return torch.cat((cosines, cosines), dim=-1), torch.cat((sines, sines), dim=-1)


def with_exact_angles(module: nn.Module) -> None:
    """Give a transformers model that computes in float32 exact rotary angles if all its frequencies are fixed."""
    rotary = getattr(module, "rotary_emb", None)
    if rotary is None:
        return
    kinds = rotary.rope_type.values() if isinstance(rotary.rope_type, dict) else [rotary.rope_type]
    if _FIXED_FREQUENCIES.issuperset(kinds):
        module.rotary_emb = ExactRotary(rotary)


def compute_in_full() -> None:
    """Make torch compute matrix products of float32 in float32, not in TF32 or bfloat16, which have three digits.

    Raises:
        ValueError: the environment lets oneDNN round products, for example on a processor with AMX. torch has no call
            that overrides it.
    """
    torch.set_float32_matmul_precision("highest")
    for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
        mode = os.environ.get(name, "STRICT")
        if mode.upper() != "STRICT":
            raise ValueError(
                f"{name} is {mode!r} in the server's environment, so products of fp32 would be rounded; unset it, or "
                "add the deployment with --precision bf16"
            )
