# SPDX-License-Identifier: Apache-2.0
"""The activations of torch that a Dense layer may have. Imports no torch."""

from __future__ import annotations

from typing import Final

__all__ = ["ACTIVATIONS", "OVER_COMPONENTS", "activation_refused"]

OVER_COMPONENTS: Final = ("LogSoftmax", "Softmax", "Softmin")
"""Activations over a vector as a whole. torch applies them to the last dimension of `[B, C]` if the dimension is not
set."""

ACTIVATIONS: Final = (
    *("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU"),
    *("LogSigmoid", "LogSoftmax", "Mish", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax", "Softmin"),
    *("Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink"),
)
"""Activations of torch that have no weights and need no arguments."""


def activation_refused(activation: str, out_features: int, *, residual: bool) -> str | None:
    """Return the fault of a layer's activation, or None if the activation is served.

    Args:
        activation: dotted name of its class.
        out_features: number of outputs of the layer's matrix.
        residual: the input of the layer is added after the activation.
    """
    name = activation.rpartition(".")[2]
    if not activation.startswith("torch.nn.") or name not in ACTIVATIONS:
        return f"has activation_function {activation!r}; served are torch.nn's {', '.join(ACTIVATIONS)}"
    if name == "GLU" and (residual or out_features % 2):
        return f"has a GLU of {out_features} components; expected an even number, and no use_residual"
    return None
