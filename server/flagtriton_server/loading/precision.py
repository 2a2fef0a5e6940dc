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


class ExactRotary(nn.Module):  # type: ignore[misc]
    """Rotary embeddings (Su et al., "RoFormer", 2021) in the place of transformers' own, with angles in float64.

    Args:
        rotary: transformers'; its frequencies stay as they are, rounded to float32.
    """

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.register_buffer("inv_freq", rotary.inv_freq, persistent=False)
        self.attention_scaling: float = rotary.attention_scaling

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines `[1, N, d]` in x's dtype, for position ids `[1, N]`."""
        angles = position_ids[..., None].double() * self.inv_freq.to(x.device).double()  # [1, N, d / 2]
        cosines, sines = (part.mul(self.attention_scaling).to(x.dtype) for part in (angles.cos(), angles.sin()))
        return torch.cat((cosines, cosines), dim=-1), torch.cat((sines, sines), dim=-1)


def with_exact_angles(module: nn.Module) -> None:
    """Let a transformers model that computes in float32 have exact rotary angles, if it has any of a fixed kind."""
    rotary = getattr(module, "rotary_emb", None)
    if rotary is not None and getattr(rotary, "rope_type", None) in _FIXED_FREQUENCIES:
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
