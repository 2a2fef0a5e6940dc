# SPDX-License-Identifier: Apache-2.0
"""What a deployment in fp32 does for its digits: exact rotary angles, and products that nothing rounds on the way.

A rotary angle is a position times a frequency. Rounded to float32 it is wrong by up to half a unit of its last digit:
at position 500 by 1.5e-5. That is the greatest error of a decoder's vectors in float32, a hundred times that of a
product. In float64 it costs a sine and a cosine of d / 2 numbers for each token.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

__all__ = ["ExactRotary", "compute_in_full", "with_exact_angles"]

_FIXED_FREQUENCIES = frozenset(["default", "linear", "llama3", "yarn", "proportional"])
"""Kinds of rotary embeddings whose frequencies do not change with a text's length."""


class ExactRotary(nn.Module):
    """Rotary embeddings (Su et al., "RoFormer", 2021) in the place of transformers' own, with angles in float64.

    Args:
        rotary: transformers'; its frequencies stay as they are, rounded to float32. Where kinds of layers have
            frequencies of their own, as ModernBERT's local and global layers do, it is called with the kind.
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
    """Let a transformers model that computes in float32 have exact rotary angles, if its frequencies are all fixed."""
    rotary = getattr(module, "rotary_emb", None)
    if rotary is None:
        return
    kinds = rotary.rope_type.values() if isinstance(rotary.rope_type, dict) else [rotary.rope_type]
    if _FIXED_FREQUENCIES.issuperset(kinds):
        module.rotary_emb = ExactRotary(rotary)


def compute_in_full() -> None:
    """Have matrix products of float32 computed in float32, where TF32 and bfloat16 have three digits.

    Raises:
        ValueError: the environment lets oneDNN round them, on a processor with AMX for example; torch has no call that
            overrules it.
    """
    torch.set_float32_matmul_precision("highest")
    for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
        mode = os.environ.get(name, "STRICT")
        if mode.upper() != "STRICT":
            raise ValueError(
                f"{name} is {mode!r} in the server's environment, so products of fp32 would be rounded; unset it, or "
                "add the deployment with --precision bf16"
            )
