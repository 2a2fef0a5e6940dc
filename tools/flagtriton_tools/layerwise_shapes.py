# SPDX-License-Identifier: Apache-2.0
"""Writes checkpoints with the shapes of layerwise rerankers, and random weights under the released names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PretrainedConfig

from flagtriton_server.layerwise.decoder import LayerHeads, LayerwiseDecoder
from flagtriton_server.layerwise.spec import LayerwiseSpec

__all__ = ["write_layered"]

_DEVIATION = 0.02

_ARCHITECTURES = {
    "decoder-only-layerwise": ("minicpm", "LayerWiseMiniCPMForCausalLM"),
    "decoder-only-lightweight": ("cost_wise_gemma", "CostWiseGemmaForCausalLM"),
}


def write_layered(sizes: Mapping[str, Any], model_class: str, target: Path) -> None:
    """Write configuration and weights.

    Args:
        sizes: content of the configuration.
        model_class: FlagEmbedding's name of the model class.
        target: folder that exists.
    """
    spec = LayerwiseSpec.of(sizes, model_class)
    torch.manual_seed(0)
    decoder, heads = LayerwiseDecoder(PretrainedConfig(), spec), LayerHeads(PretrainedConfig(), spec)
    weights = {f"model.{name}": weight for name, weight in decoder.state_dict().items()} | heads.state_dict()
    for name, weight in weights.items():
        if name.endswith("norm.weight"):
            weight.fill_(0.0 if spec.gemma_norms else 1.0)
        else:
            weight.normal_(std=_DEVIATION)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    model_type, architecture = _ARCHITECTURES[model_class]
    config = {**sizes, "model_type": model_type, "architectures": [architecture]}
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
