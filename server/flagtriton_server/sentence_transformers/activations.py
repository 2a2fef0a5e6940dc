# SPDX-License-Identifier: Apache-2.0
"""Which of torch's activations a Dense layer may have. Imports no torch."""

from __future__ import annotations

from typing import Final

__all__ = ["ACTIVATIONS", "OVER_COMPONENTS", "activation_refused"]

OVER_COMPONENTS: Final = ("LogSoftmax", "Softmax", "Softmin")
"""Those of a vector as a whole; torch takes a `[B, C]`'s last dimension where nothing says which."""

ACTIVATIONS: Final = (
    *("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU"),
    *("LogSigmoid", "LogSoftmax", "Mish", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax", "Softmin"),
    *("Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink"),
)
"""torch's activations that have neither weights nor arguments they need."""


def activation_refused(activation: str, out_features: int, *, residual: bool) -> str | None:
    """Return what is wrong with a layer's activation, or None where it is served.

    Args:
        activation: dotted name of its class.
        out_features: of the layer's matrix.
        residual: the layer's input is added behind the activation.
    """
    name = activation.rpartition(".")[2]
    if not activation.startswith("torch.nn.") or name not in ACTIVATIONS:
        return f"has activation_function {activation!r}; served are torch.nn's {', '.join(ACTIVATIONS)}"
    if name == "GLU" and (residual or out_features % 2):
        return f"has a GLU of {out_features} components; expected an even number, and no use_residual"
    return None
