# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.layerwise.spec`: what two made-up `config.json` describe, and which of their layers have heads."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flagtriton_server.errors import RequestError
from flagtriton_server.layerwise.spec import LayerwiseSpec

LAYERWISE, LIGHTWEIGHT = "decoder-only-layerwise", "decoder-only-lightweight"

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 16,
    "num_attention_heads": 4,
}
MINICPM: dict[str, Any] = {
    **SIZES,
    "head_multi": True,
    "head_type": "simple",
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 20_000.0,
    "scale_depth": 1.4,
    "scale_emb": 12,
    "start_layer": 8,
}
GEMMA2: dict[str, Any] = {
    **SIZES,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 20.0,
    "head_dim": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "layer_sep": 4,
    "layer_wise": True,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 2,
    "query_pre_attn_scalar": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 20_000.0,
    "sliding_window": 32,
    "start_layer": 8,
}
CONFIGS = {LAYERWISE: MINICPM, LIGHTWEIGHT: GEMMA2}


def spec(model_class: str, **changes: Any) -> LayerwiseSpec:
    return LayerwiseSpec.of({**CONFIGS[model_class], **changes}, model_class)


def without(model_class: str, *names: str) -> LayerwiseSpec:
    """Return what is read where some entries are missing."""
    config = {name: value for name, value in CONFIGS[model_class].items() if name not in names}
    return LayerwiseSpec.of(config, model_class)


def test_every_field_of_minicpm_is_read() -> None:
    assert spec(LAYERWISE) == LayerwiseSpec(
        vocab_size=300,
        hidden_size=48,
        intermediate_size=96,
        layers=16,
        heads=4,
        kv_heads=2,
        head_dim=12,  # 48 over 4 heads
        activation="silu",
        norm_eps=1e-5,
        gemma_norms=False,
        embedding_scale=12.0,
        branch_scale=1.4 / 4,  # the root of 16 layers
        attention_scale=12**-0.5,
        rope_theta=20_000.0,
        window=None,
        positions=2048,
        head_layers=(8, 9, 10, 11, 12, 13, 14, 15, 16),
        heads_by_place=False,
        softcap=None,
        projection_bias=False,
    )


def test_every_field_of_gemma_2_is_read() -> None:
    assert spec(LIGHTWEIGHT) == LayerwiseSpec(
        vocab_size=300,
        hidden_size=48,
        intermediate_size=96,
        layers=16,
        heads=4,
        kv_heads=2,
        head_dim=16,
        activation="gelu_pytorch_tanh",
        norm_eps=1e-6,
        gemma_norms=True,
        embedding_scale=math.sqrt(48),
        branch_scale=1.0,
        attention_scale=1 / 8,  # of 64, not of the 16 of a head
        rope_theta=20_000.0,
        window=32,
        positions=8192,
        head_layers=(8, 12, 16),
        heads_by_place=True,
        softcap=20.0,
        projection_bias=False,
    )


def test_what_minicpms_config_leaves_out_has_its_classs_default() -> None:
    left_out = ["head_multi", "head_type", "hidden_act", "max_position_embeddings", "num_key_value_heads"]
    scales = ["rms_norm_eps", "rope_scaling", "rope_theta", "scale_depth", "scale_emb", "start_layer"]
    found = without(LAYERWISE, *left_out, *scales)
    assert (found.kv_heads, found.positions, found.norm_eps, found.rope_theta) == (4, None, 1e-6, 10_000.0)
    assert (found.branch_scale, found.embedding_scale, found.head_layers[0]) == (1 / 4, 1.0, 8)


def test_what_gemma_2s_config_leaves_out_has_its_classs_default() -> None:
    found = without(LIGHTWEIGHT, "final_logit_softcapping", "hidden_activation", "rope_theta", "sliding_window")
    assert (found.softcap, found.rope_theta, found.window) == (30.0, 10_000.0, 4096)


def test_scores_may_go_uncapped_and_tokens_see_all() -> None:
    found = spec(LIGHTWEIGHT, final_logit_softcapping=None, sliding_window=None)
    assert (found.softcap, found.window) == (None, None)


@pytest.mark.parametrize("model_class", CONFIGS)
def test_rotary_angles_are_read_where_transformers_5_writes_them(model_class: str) -> None:
    assert spec(model_class, rope_parameters={"rope_theta": 500.0}).rope_theta == 500.0


@pytest.mark.parametrize("model_class", CONFIGS)
def test_projections_have_a_bias_where_the_config_says_so(model_class: str) -> None:
    assert spec(model_class, attention_bias=True).projection_bias is True


@pytest.mark.parametrize(
    ("model_class", "entry", "value", "served"),
    [
        (LAYERWISE, "head_type", "raw", "'simple'"),
        (LAYERWISE, "head_multi", False, "True"),
        (LAYERWISE, "rope_scaling", {"type": "linear", "factor": 2}, "None"),
        (LAYERWISE, "hidden_act", "gelu", "'silu'"),
        (LIGHTWEIGHT, "layer_wise", False, "True"),
        (LIGHTWEIGHT, "rope_scaling", {"type": "linear", "factor": 2}, "None"),
        (LIGHTWEIGHT, "hidden_activation", "relu", "'gelu_pytorch_tanh'"),
    ],
)
def test_a_variant_that_would_be_computed_wrongly_is_refused(
    model_class: str, entry: str, value: object, served: str
) -> None:
    with pytest.raises(ValueError, match=rf"config\.json has {entry} .*; this version serves {served} alone"):
        spec(model_class, **{entry: value})


def test_a_plain_gemma_2_is_refused() -> None:
    with pytest.raises(ValueError, match=r"config\.json has layer_wise False; this version serves True alone"):
        without(LIGHTWEIGHT, "layer_wise")


@pytest.mark.parametrize(
    ("model_class", "config", "entry"), [(LAYERWISE, GEMMA2, "hidden_act"), (LIGHTWEIGHT, MINICPM, "layer_wise")]
)
def test_neither_class_takes_the_others_checkpoint(model_class: str, config: dict[str, Any], entry: str) -> None:
    with pytest.raises(ValueError, match=f"config.json has {entry} .*; this version serves"):
        LayerwiseSpec.of(config, model_class)


REQUIRED = {LAYERWISE: [*SIZES], LIGHTWEIGHT: [*SIZES, "head_dim", "num_key_value_heads", "query_pre_attn_scalar"]}


@pytest.mark.parametrize(
    ("model_class", "name"),
    [
        *[(model_class, name) for model_class, names in REQUIRED.items() for name in names],
        *[(LIGHTWEIGHT, name) for name in ("start_layer", "layer_sep")],
    ],
)
def test_an_entry_that_is_missing_is_named(model_class: str, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^config\.json has no '{name}', which {model_class} needs$"):
        without(model_class, name)


@pytest.mark.parametrize("model_class", CONFIGS)
def test_the_last_layer_is_scored_where_none_is_asked_for(model_class: str) -> None:
    assert spec(model_class).chosen_layers(None) == (16,)


@pytest.mark.parametrize(
    ("asked", "chosen"), [([16], (16,)), ([16, 8], (8, 16)), ([12, 8, 12, 8], (8, 12)), ((8, 12, 16), (8, 12, 16))]
)
@pytest.mark.parametrize("model_class", CONFIGS)
def test_layers_are_scored_once_each_in_ascending_order(
    model_class: str, asked: list[int], chosen: tuple[int, ...]
) -> None:
    assert spec(model_class).chosen_layers(asked) == chosen


@pytest.mark.parametrize(("asked", "named"), [([7, 8], 7), ([8, 17], 17), ([0], 0), ([40, 3], 3)])
def test_a_layer_outside_is_refused_with_the_range(asked: list[int], named: int) -> None:
    said = f"^option 'cutoff_layers' has {named}, where this model has no head; its heads are at layers 8 to 16$"
    with pytest.raises(RequestError, match=said):
        spec(LAYERWISE).chosen_layers(asked)


@pytest.mark.parametrize("layer", [4, 9, 13, 20])
def test_a_layer_between_the_steps_is_refused_with_the_step(layer: int) -> None:
    with pytest.raises(RequestError, match=f"has {layer}, .* its heads are at layers 8 to 16 in steps of 4$"):
        spec(LIGHTWEIGHT).chosen_layers([8, layer])


def test_steps_that_miss_the_last_layer_leave_it_without_a_head() -> None:
    found = spec(LIGHTWEIGHT, layer_sep=3)
    assert found.head_layers == (8, 11, 14)
    with pytest.raises(RequestError, match=r"stands for 16, .* its heads are at layers 8 to 14 in steps of 3$"):
        found.chosen_layers(None)


def test_stretched_positions_are_refused_as_transformers_5_writes_them() -> None:
    plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    assert spec(LAYERWISE, **plain).rope_theta == 500
    with pytest.raises(ValueError, match="rope_type 'yarn'"):
        spec(LAYERWISE, rope_parameters={"rope_type": "yarn", "rope_theta": 500.0})


@pytest.mark.parametrize("of", [LAYERWISE, LIGHTWEIGHT])
def test_a_model_whose_heads_would_begin_behind_its_layers_is_refused(of: str) -> None:
    with pytest.raises(ValueError, match="has start_layer 17 of 16 layers"):
        spec(of, start_layer=17)


@pytest.mark.parametrize("changes", [{"layer_sep": 20}, {"start_layer": 16}])
def test_a_model_with_one_head_says_where_it_is(changes: dict[str, int]) -> None:
    found = spec(LIGHTWEIGHT, **changes)
    (layer,) = found.head_layers
    with pytest.raises(RequestError, match=f"has 9, .* its heads are at layers {layer} to {layer}$"):
        found.chosen_layers([9])


@pytest.mark.parametrize(("layers", "heads"), [((16,), [8]), ((8,), [0]), ((8, 10, 16), [0, 2, 8])])
def test_a_layerwise_layer_is_scored_by_its_own_head(layers: tuple[int, ...], heads: list[int]) -> None:
    assert spec(LAYERWISE).heads_of(layers) == heads


@pytest.mark.parametrize(("layers", "heads"), [((16,), [0]), ((8,), [0]), ((12, 16), [0, 1]), ((8, 12, 16), [0, 1, 2])])
def test_a_lightweight_layer_is_scored_by_the_head_of_its_place_in_the_request(
    layers: tuple[int, ...], heads: list[int]
) -> None:
    assert spec(LIGHTWEIGHT).heads_of(layers) == heads
