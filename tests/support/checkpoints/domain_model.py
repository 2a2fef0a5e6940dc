# SPDX-License-Identifier: Apache-2.0
"""A tiny checkpoint with code of its own: Qwen3 with vectors scaled for a domain, as pseudo-MoE models have them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.checkpoints.tiny import make_decoder

__all__ = ["DOMAINS", "make_domain_model"]

DOMAINS = ("general", "coding", "reasoning")
"""The first is what the model uses unless told otherwise."""

_CODE = """
from torch import nn
from transformers import Qwen3Config, Qwen3Model


class DomainConfig(Qwen3Config):
    model_type = "domain-qwen3"


class DomainModel(Qwen3Model):
    config_class = DomainConfig
    names = ("general", "coding", "reasoning")

    def __init__(self, config):
        super().__init__(config)
        self.domain = "general"
        self.scales = nn.Embedding(len(self.names), config.hidden_size)
        self.post_init()

    def set_domain(self, domain):
        if domain not in self.names:
            raise ValueError(f"no domain {domain}")
        self.domain = domain

    def forward(self, *args, domain=None, **kwargs):
        output = super().forward(*args, **kwargs)
        scale = self.scales.weight[self.names.index(domain or self.domain)]
        output.last_hidden_state = output.last_hidden_state * scale
        return output
"""


def make_domain_model(folder: Path) -> Path:
    """Write the checkpoint; return its folder."""
    import torch
    from safetensors.torch import load_file, save_file

    make_decoder(folder, "qwen3")
    (folder / "domain_model.py").write_text(_CODE, encoding="utf-8")
    weights = load_file(folder / "model.safetensors")
    width = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    weights["scales.weight"] = torch.randn(len(DOMAINS), width, generator=torch.Generator().manual_seed(7))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "domain-qwen3",
        "architectures": ["DomainModel"],
        "auto_map": {"AutoConfig": "domain_model.DomainConfig", "AutoModel": "domain_model.DomainModel"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
