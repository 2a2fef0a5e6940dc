# SPDX-License-Identifier: Apache-2.0
"""Computes the parameters of a published shape, and the operations per token, from its configuration."""

from __future__ import annotations

from flagtriton_tools.shapes import Shape

__all__ = ["flops_per_token", "network_parameters", "parameters"]

_GATED = ("gemma", "gemma2", "llama", "mistral", "qwen2", "qwen3")
"""Families whose feed-forward layers have a third matrix."""


def network_parameters(shape: Shape) -> int:
    """Return the number of weights in the matrices of the layers, with which each token is multiplied."""
    width, head = shape.hidden_size, _head_size(shape)
    of_queries, of_keys = shape.heads * head, shape.more.get("num_key_value_heads", shape.heads) * head
    inner = shape.more.get("intermediate_size", 4 * width)
    attention = 2 * width * of_queries + 2 * width * of_keys
    return int(shape.layers * (attention + (3 if shape.family in _GATED else 2) * width * inner))


def parameters(shape: Shape) -> int:
    """Return the number of parameters without biases and norms, which are less than 1 % of them."""
    positions = shape.max_positions if shape.family in ("bert", "xlm-roberta") else 0
    return network_parameters(shape) + (shape.vocab_size + positions) * shape.hidden_size


def flops_per_token(shape: Shape, tokens: float) -> float:
    """Return the floating-point operations for one token of a text with `tokens` tokens.

    Each weight takes two operations. In attention, the products with every token's key and value take two operations
    each. Together these are `4 T H` per layer, where H is the width of all heads.
    """
    width_of_heads = shape.heads * _head_size(shape)
    return 2.0 * network_parameters(shape) + 4.0 * tokens * width_of_heads * shape.layers


def _head_size(shape: Shape) -> int:
    return int(shape.more.get("head_dim", shape.hidden_size // shape.heads))
