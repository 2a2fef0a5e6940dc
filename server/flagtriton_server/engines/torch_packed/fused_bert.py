# SPDX-License-Identifier: Apache-2.0
"""The layers of BERT, RoBERTa, XLM-R and CamemBERT in few, large operations.

The arithmetic is that of transformers, but with fewer passes through memory. One matrix product computes queries, keys
and values. On a processor, oneDNN's kernels take weights that are repacked once. The kernels add the residual and apply
GELU while a result is still in cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flagtriton_server.engines.torch_packed.attention import PackedTexts, packed_attention
from flagtriton_server.engines.torch_packed.prefix_attention import AttentionSpec

__all__ = ["BertBlock", "FusedLinear", "fuse_bert_layers"]


class FusedLinear(nn.Module):
    """`x @ weight.T + bias`, in one kernel with the operation that follows it if the device has such a kernel.

    Args:
        layers: linear layers whose outputs are concatenated; their weights are copied, in the kernel's own layout.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        weight = torch.cat([layer.weight for layer in layers]).detach()
        self.bias = torch.cat([layer.bias for layer in layers]).detach()
        self._repacked = weight.device.type == "cpu" and _has_kernels(weight.dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._repacked else weight

    def forward(self, x: Tensor) -> Tensor:
        """Return `[N, out]` for x `[N, in]`."""
        if self._repacked:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return functional.linear(x, self.weight, self.bias)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the result plus residual, `[N, out]`."""
        if self._repacked:
            return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
        return functional.linear(x, self.weight, self.bias).add_(residual)

    def gelu(self, x: Tensor) -> Tensor:
        """Return the exact GELU (by the error function) of the result, `[N, out]`."""
        if self._repacked:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")
        return functional.gelu(functional.linear(x, self.weight, self.bias))


class BertBlock(nn.Module):
    """One layer for packed tokens only, with the call signature of the transformers layer that it replaces.

    Args:
        layer: a `BertLayer`, `RobertaLayer`, `XLMRobertaLayer` or `CamembertLayer`.
    """

    def __init__(self, layer: Any) -> None:  # noqa: ANN401 - a transformers layer
        super().__init__()
        attention = layer.attention
        self.query_key_value = FusedLinear([attention.self.query, attention.self.key, attention.self.value])
        self.heads: int = attention.self.num_attention_heads
        self.output = FusedLinear([attention.output.dense])
        self.attention_norm = attention.output.LayerNorm
        self.up = FusedLinear([layer.intermediate.dense])
        self.down = FusedLinear([layer.output.dense])
        self.norm = layer.output.LayerNorm

    def forward(self, hidden_states: Tensor, *_: object, packed: PackedTexts, **__: object) -> Tensor:
        """Return `[1, N, D]` for hidden states `[1, N, D]`; both residuals are added before their LayerNorm."""
        x = hidden_states[0]
        projected = self.query_key_value(x).view(len(x), 3, self.heads, -1)  # [N, 3, H, d]
        query, key, value = projected.unbind(1)
        mixed = packed_attention(query, key, value, packed, AttentionSpec()).flatten(1)  # [N, D]
        x = self.attention_norm(self.output.plus(mixed, x))
        return self.norm(self.down.plus(self.up.gelu(x), x))[None]

    def build_kernels(self, lengths: Iterable[int]) -> None:
        """Build a processor's kernels for batches of these lengths, about 50 ms each, before a request waits."""
        weight = self.attention_norm.weight
        for length in lengths:
            x = torch.zeros(length, len(weight), dtype=weight.dtype, device=weight.device)
            self.query_key_value(x)
            self.output.plus(x, x)
            self.down.plus(self.up.gelu(x), x)


def _has_kernels(dtype: torch.dtype) -> bool:
    """Return whether oneDNN has kernels of a dtype for this processor.

    Its half-precision kernels need AVX512 or AVX-NE-CONVERT. On a processor without them, torch also computes in half
    precision, with kernels that take the weights without repacking.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


def fuse_bert_layers(module: Any) -> bool:  # noqa: ANN401 - a transformers model
    """Replace the layers of an architecture that is `fused` by `BertBlock`s; return whether they were replaced.

    They are not replaced if a layer is a decoder's or has an activation other than the exact GELU.
    """
    layers = module.encoder.layer
    if not layers or not all(_is_plain(layer) for layer in layers):
        return False
    for index, layer in enumerate(layers):
        # One at a time, so that only one layer's weights are held twice.
        layers[index] = BertBlock(layer).train(layer.training)
    return True


def _is_plain(layer: Any) -> bool:  # noqa: ANN401 - a transformers layer
    """Return whether a layer of these architectures is an encoder layer with the exact GELU."""
    return not layer.is_decoder and _is_exact_gelu(layer.intermediate.intermediate_act_fn)


def _is_exact_gelu(activation: Callable[[Tensor], Tensor]) -> bool:
    probe = torch.linspace(-4, 4, 65)
    return bool(torch.equal(activation(probe), functional.gelu(probe)))
