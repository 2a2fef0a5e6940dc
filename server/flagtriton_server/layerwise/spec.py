# SPDX-License-Identifier: Apache-2.0
"""The architecture of a layerwise reranker, read from its `config.json`: MiniCPM or Gemma-2. Imports no torch.

Both are decoders in which a head can score every later layer: docs/reference-behaviour.md#layerwise-scores and
#lightweight-scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flagtriton.protocol.model_classes import RerankerModelClass
from flagtriton_server.errors import RequestError

__all__ = ["LayerwiseSpec"]

_LAYERWISE = RerankerModelClass.DECODER_ONLY_LAYERWISE


@dataclass(frozen=True)
class LayerwiseSpec:
    """The architecture of the decoder. Sizes are in components, scales are factors.

    Attributes:
        layers: number of layers of the whole network.
        kv_heads: number of heads of keys and values, which divides `heads`.
        activation: `silu` or `gelu_pytorch_tanh`, the activation of the gate in the feed-forward part.
        norm_eps: number that is added to the mean of squares.
        gemma_norms: whether RMSNorm multiplies by 1 + weight, in float32, and each branch ends with a second RMSNorm.
        embedding_scale: factor of the token embeddings.
        branch_scale: factor of the output of attention, and of that of the feed-forward part.
        attention_scale: factor of the attention scores before the softmax.
        rope_theta: base of the rotary angles.
        window: most tokens that every second layer sees, from the first layer on; None is all.
        positions: number of tokens for which the model was made; None is unknown.
        head_layers: layers that have a head, in order; `cutoff_layers` chooses among them.
        heads_by_place: whether head i scores the i-th of the requested layers, not the i-th layer that has a head.
        softcap: bound of the scores: a score s becomes `softcap * tanh(s / softcap)`; None leaves scores unchanged.
        projection_bias: whether the projections of attention have a bias.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    activation: str
    norm_eps: float
    gemma_norms: bool
    embedding_scale: float
    branch_scale: float
    attention_scale: float
    rope_theta: float
    window: int | None
    positions: int | None
    head_layers: tuple[int, ...]
    heads_by_place: bool
    softcap: float | None
    projection_bias: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], model_class: str) -> LayerwiseSpec:
        """Return the architecture that a `config.json` of a model class describes.

        Raises:
            ValueError: an entry is missing, or asks for a variant that no released checkpoint of the class has.
        """
        try:
            spec = _minicpm(config) if model_class == _LAYERWISE else _gemma2(config)
        except KeyError as error:
            raise ValueError(f"config.json has no {error}, which {model_class} needs") from error
        rope_type = (config.get("rope_parameters") or {}).get("rope_type", "default")
        if rope_type != "default":
            raise ValueError(f"config.json has rope_type {rope_type!r}; this version serves 'default' alone")
        if not spec.head_layers:
            raise ValueError(f"config.json has start_layer {config.get('start_layer')} of {spec.layers} layers")
        return spec

    def chosen_layers(self, asked: Iterable[int] | None) -> tuple[int, ...]:
        """Return the layers to score, each once and in ascending order; None asks for the last layer.

        Raises:
            RequestError: one of the layers has no head; the message names the layers that have one.
        """
        chosen = tuple(sorted({self.layers} if asked is None else set(asked)))
        without = [layer for layer in chosen if layer not in self.head_layers]
        if without:
            said = "is not there, and stands for" if asked is None else "has"
            step = f" in steps of {self._step}" if self._step > 1 else ""
            raise RequestError(
                f"option 'cutoff_layers' {said} {without[0]}, where this model has no head; its heads are at layers "
                f"{self.head_layers[0]} to {self.head_layers[-1]}{step}"
            )
        return chosen

    def heads_of(self, layers: tuple[int, ...]) -> list[int]:
        """Return the index of the head that scores each of the chosen layers."""
        return list(range(len(layers))) if self.heads_by_place else [self.head_layers.index(layer) for layer in layers]

    @property
    def _step(self) -> int:
        return self.head_layers[1] - self.head_layers[0] if len(self.head_layers) > 1 else 1


def _minicpm(config: Mapping[str, Any]) -> LayerwiseSpec:
    _expect(config, head_type="simple", head_multi=True, rope_scaling=None, hidden_act="silu")
    layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
    head_dim = int(config["hidden_size"]) // heads
    return LayerwiseSpec(
        **_sizes(config),
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        activation="silu",
        gemma_norms=False,
        embedding_scale=float(config.get("scale_emb", 1)),
        branch_scale=float(config.get("scale_depth", 1)) / math.sqrt(layers),
        attention_scale=head_dim**-0.5,
        window=None,
        head_layers=tuple(range(int(config.get("start_layer", 8)), layers + 1)),
        heads_by_place=False,
        softcap=None,
    )


def _gemma2(config: Mapping[str, Any]) -> LayerwiseSpec:
    _expect({"layer_wise": False, **config}, layer_wise=True, hidden_activation="gelu_pytorch_tanh", rope_scaling=None)
    layers = int(config["num_hidden_layers"])
    return LayerwiseSpec(
        **_sizes(config),
        kv_heads=int(config["num_key_value_heads"]),
        head_dim=int(config["head_dim"]),
        activation="gelu_pytorch_tanh",
        gemma_norms=True,
        embedding_scale=float(config["hidden_size"]) ** 0.5,
        branch_scale=1.0,
        attention_scale=float(config["query_pre_attn_scalar"]) ** -0.5,
        window=config.get("sliding_window", 4096),
        head_layers=tuple(range(int(config["start_layer"]), layers + 1, int(config["layer_sep"]))),
        heads_by_place=True,
        softcap=config.get("final_logit_softcapping", 30.0),
    )


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that have the same names in both architectures."""
    return {
        "vocab_size": int(config["vocab_size"]),
        "hidden_size": int(config["hidden_size"]),
        "intermediate_size": int(config["intermediate_size"]),
        "layers": int(config["num_hidden_layers"]),
        "heads": int(config["num_attention_heads"]),
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "rope_theta": float((config.get("rope_parameters") or config).get("rope_theta", 10_000)),
        "positions": config.get("max_position_embeddings"),
        "projection_bias": bool(config.get("attention_bias", False)),
    }


def _expect(config: Mapping[str, Any], **values: object) -> None:
    """Reject variants that no released checkpoint of the class has, and that would get wrong results."""
    for name, value in values.items():
        if name in config and config[name] != value:
            raise ValueError(f"config.json has {name} {config[name]!r}; this version serves {value!r} alone")
