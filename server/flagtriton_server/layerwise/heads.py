# SPDX-License-Identifier: Apache-2.0
"""The heads of a layerwise reranker: one row of weights for each layer that has a head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.settings import RerankerHeadSettings
from flagtriton_server.engines.base import Precision
from flagtriton_server.engines.finite import check_loaded
from flagtriton_server.errors import RequestError
from flagtriton_server.layerwise.loading import load_layer_heads, read_spec
from flagtriton_server.loading.adapters import adapter_heads

__all__ = ["layer_heads"]


def layer_heads(
    settings: RerankerHeadSettings, precision: Precision, device: torch.device
) -> Callable[[Tensor, RerankOptions], Tensor]:
    """Return a function from hidden states `[P, K, D]` at K layers and a request's options to logits `[P, K]` float32.

    Raises:
        OSError: the checkpoint cannot be found.
        ValueError: it lacks a head, or the adapter has a head that the checkpoint does not have.
    """
    spec = read_spec(settings.checkpoint, settings.revision, settings.model_class)
    heads = load_layer_heads(settings.checkpoint, settings.revision, spec, precision.stored)
    known = {f"lm_head.{index}.linear_head.weight": index for index in range(len(heads))}
    for name, tensor in adapter_heads(settings.peft).items():
        if name not in known:
            raise ValueError(f"the adapter {settings.peft} has {name}; of heads it may bring {', '.join(known)} alone")
        heads[known[name]] = tensor
    check_loaded(settings.checkpoint, [("lm_head", heads)], precision.name)
    weights = heads.to(device=device, dtype=torch.float32)  # [H, D]

    def score(states: Tensor, options: RerankOptions) -> Tensor:
        layers = spec.chosen_layers(options.cutoff_layers)
        if states.shape[1] != len(layers):
            raise RequestError(f"hidden_states is of {states.shape[1]} layers, but the options ask for {len(layers)}")
        chosen = weights[spec.heads_of(layers)]  # [K, D]
        logits = torch.einsum("pkd,kd->pk", states.to(device=device, dtype=torch.float32), chosen)
        return logits if spec.softcap is None else torch.tanh(logits / spec.softcap) * spec.softcap

    return score
