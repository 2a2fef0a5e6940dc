# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints of the two rerankers that score after every layer: numbers and tokenizers alike in every version.

Knows nothing about torch or transformers, so that the reference's environment and ours write the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

__all__ = ["make_layerwise", "make_lightweight"]

_SEED = 20
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_MERGES = [
    ("Y", "e"), ("Ye", "s"), ("N", "o"), ("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("a", "n"), ("an", "d"),
    ("o", "n"), ("r", "e"), ("o", "u"), ("in", "g"), ("e", "n"), ("a", "t"), ("i", "s"), ("o", "r"), ("e", "s"),
    ("Ġ", "the"), ("Ġ", "and"), ("Ġ", "a"), ("Ġ", "is"), ("Ġ", "o"), ("Ġo", "f"), ("Ġ", "p"), ("Ġ", "w"),
    ("er", "y"), ("a", "s"), ("s", "t"), ("Ġ", "in"),
]  # fmt: skip
"""Of byte symbols ("Ġ" is the space), first merge first."""

_LAYERWISE: dict[str, Any] = {
    "architectures": ["LayerWiseMiniCPMForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_minicpm_reranker.LayerWiseMiniCPMConfig",
        "AutoModel": "modeling_minicpm_reranker.LayerWiseMiniCPMModel",
        "AutoModelForCausalLM": "modeling_minicpm_reranker.LayerWiseMiniCPMForCausalLM",
    },
    "bos_token_id": 1,
    "dim_model_base": 12,
    "eos_token_id": 2,
    "head_multi": True,
    "head_type": "simple",
    "hidden_act": "silu",
    "hidden_size": 48,
    "initializer_range": 0.1,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
    "model_type": "minicpm",
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "scale_depth": 1.4,
    "scale_emb": 3,
    "start_layer": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": False,
}

_LIGHTWEIGHT: dict[str, Any] = {
    "architectures": ["CostWiseGemmaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "auto_map": {
        "AutoConfig": "gemma_config.CostWiseGemmaConfig",
        "AutoModel": "gemma_model.CostWiseGemmaModel",
        "AutoModelForCausalLM": "gemma_model.CostWiseGemmaForCausalLM",
    },
    "bos_token_id": 1,
    "eos_token_id": 2,
    "final_logit_softcapping": 30.0,
    "head_dim": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 48,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_sep": 1,
    "layer_wise": True,
    "max_position_embeddings": 8192,
    "model_type": "cost_wise_gemma",
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 24,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "sliding_window": 32,
    "sliding_window_size": 32,
    "start_layer": 2,
    "torch_dtype": "float32",
    "use_cache": True,
}


def make_layerwise(folder: Path, **changes: Any) -> Path:
    """Write one laid out as bge-reranker-v2-minicpm-layerwise, with changes to its config; return its folder."""
    folder.mkdir(parents=True)
    _save_tokenizer(folder, add_prefix_space=True, padding_side="left")
    config = _save_config(folder, {**_LAYERWISE, **changes})
    heads = config["num_hidden_layers"] + 1 - config["start_layer"]
    return _save_weights(folder, config, heads=heads, norms=["input", "post_attention"], norm_offset=1.0)


def make_lightweight(folder: Path, **changes: Any) -> Path:
    """Write one laid out as bge-reranker-v2.5-gemma2-lightweight, with changes to its config; return its folder."""
    folder.mkdir(parents=True)
    _save_tokenizer(folder, add_prefix_space=False, padding_side="left")
    config = _save_config(folder, {**_LIGHTWEIGHT, **changes})
    heads = len(range(config["start_layer"], config["num_hidden_layers"] + 1, config["layer_sep"]))
    norms = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
    return _save_weights(folder, config, heads=heads, norms=norms, norm_offset=0.0)  # Gemma multiplies by 1 + weight


def _save_config(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    content = {**config, "vocab_size": len(_vocabulary())}
    _save_json(folder / "config.json", content)
    return content


def _save_weights(folder: Path, config: Mapping[str, Any], *, heads: int, norms: list[str], norm_offset: float) -> Path:
    shapes = _shapes(config, heads, norms)
    random = np.random.default_rng(_SEED)
    weights: dict[str, NDArray[np.float32]] = {}
    for name in sorted(shapes):
        values = random.standard_normal(shapes[name])
        if len(shapes[name]) == 1:
            values = norm_offset + 0.1 * values
        else:
            values *= 0.5 if name.startswith("lm_head") else 0.2
        weights[name] = values.astype(np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _shapes(config: Mapping[str, Any], heads: int, norms: list[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters; a matrix is [out, in]."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", width // config["num_attention_heads"])
    query, key = head_dim * config["num_attention_heads"], head_dim * config["num_key_value_heads"]
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (query, width),
        "self_attn.k_proj": (key, width),
        "self_attn.v_proj": (key, width),
        "self_attn.o_proj": (width, query),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        **{f"{norm}_layernorm": (width,) for norm in norms},
    }
    return {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
        **{f"lm_head.{head}.linear_head.weight": (1, width) for head in range(heads)},
        **{
            f"model.layers.{number}.{name}.weight": shape
            for number in range(config["num_hidden_layers"])
            for name, shape in layer.items()
        },
    }


def _vocabulary() -> dict[str, int]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*_SPECIAL, *alphabet, *(left + right for left, right in _MERGES)]
    return {token: number for number, token in enumerate(tokens)}


def _save_tokenizer(folder: Path, *, add_prefix_space: bool, padding_side: str) -> None:
    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(), merges=_MERGES, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", _SPECIAL.index("<s>"))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    # Written by hand: each version of transformers writes keys that others refuse, and all read these.
    content = {
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": 1_000_000_000,
        "pad_token": "<pad>",
        "padding_side": padding_side,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }
    _save_json(folder / "tokenizer_config.json", content)


def _save_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
