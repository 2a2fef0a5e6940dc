# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.layerwise.decoder` against transformers' Llama and Gemma-2, where they are the same network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Gemma2Config, Gemma2Model, LlamaConfig, LlamaModel, PretrainedConfig

from flagtriton_server.engines.torch_packed.attention import PackedTexts
from flagtriton_server.layerwise.decoder import LayerHeads, LayerwiseDecoder, rotation
from flagtriton_server.layerwise.spec import LayerwiseSpec

CPU = torch.device("cpu")
BOUND = 2e-5

MINICPM = LayerwiseSpec(
    vocab_size=64,
    hidden_size=48,
    intermediate_size=80,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=12,
    activation="silu",
    norm_eps=0.01,  # great enough to be seen
    gemma_norms=False,
    embedding_scale=1.0,
    branch_scale=1.0,  # scale_depth is the root of the layers
    attention_scale=12**-0.5,
    rope_theta=500.0,
    window=None,
    positions=128,
    head_layers=(2, 3, 4),
    heads_by_place=False,
    softcap=None,
    projection_bias=False,
)
GEMMA2 = replace(
    MINICPM,
    head_dim=16,  # 4 heads of 16 are 64, not the 48 of a token
    activation="gelu_pytorch_tanh",
    gemma_norms=True,
    embedding_scale=48**0.5,
    attention_scale=24**-0.5,
    window=5,
    heads_by_place=True,
    softcap=30.0,
)
KINDS = {"minicpm": MINICPM, "gemma2": GEMMA2}
TEXTS = [[9, 4, 33, 2, 60, 7, 7, 21, 5, 13, 40, 8], [9, 4, 33, 2, 1, 50, 3], [11], [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 6]]
"""Token ids; two texts are twice as long as the window, and two begin alike."""


def decoder(spec: LayerwiseSpec) -> LayerwiseDecoder:
    """Return one with random weights, its norms' too."""
    module = LayerwiseDecoder(PretrainedConfig(), spec)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(std=0.2, generator=generator)
            if "norm" in name and not spec.gemma_norms:
                parameter += 1
    return module.eval()


@torch.inference_mode()
def states(module: LayerwiseDecoder, texts: Sequence[list[int]], behind: int = 0) -> Tensor:
    """Return `[L + 2, N, D]`: what enters the first layer, what leaves each, and that of the last behind the norm.

    Args:
        module: the decoder.
        texts: token ids, which are packed.
        behind: rows behind the last text that are of none.
    """
    lengths = np.array([len(text) for text in texts])
    positions = torch.cat([torch.arange(len(text)) for text in texts] + [torch.zeros(behind, dtype=torch.int64)])
    x = module.embedded(torch.tensor([token for text in texts for token in text] + [3] * behind))
    packed, angles = PackedTexts(lengths, CPU), rotation(positions, module.spec)
    found = [x]
    for layer in range(module.spec.layers):
        found.append(module.through(layer, found[-1], angles, packed))
    return torch.stack([*found, module.norm(found[-1])])[:, : lengths.sum()]


@torch.inference_mode()
def theirs(model: Any, text: list[int]) -> Tensor:
    """Return the same of a model of transformers', for one text."""
    layers: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda *of: layers.append(of[-1])) for layer in model.layers]
    answer = model(input_ids=torch.tensor([text]), output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    left = [found[0] if isinstance(found, tuple) else found for found in layers]
    return torch.stack([answer.hidden_states[0][0], *(x.reshape(len(text), -1) for x in left), answer[0][0]])


def shared_sizes(spec: LayerwiseSpec) -> dict[str, Any]:
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "rms_norm_eps": spec.norm_eps,
        "max_position_embeddings": 128,
        "attention_bias": spec.projection_bias,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "pad_token_id": 0,
    }


def llama(module: LayerwiseDecoder) -> LlamaModel:
    """Return transformers' model with the same weights."""
    model = LlamaModel(LlamaConfig(**shared_sizes(module.spec))).eval()
    model.load_state_dict(module.state_dict())
    return model


def gemma2(module: LayerwiseDecoder, **changes: Any) -> Gemma2Model:
    """Return transformers' model with the same weights, its scores uncapped."""
    special = {
        "query_pre_attn_scalar": 24,
        "sliding_window": module.spec.window,
        "attn_logit_softcapping": None,
        "attn_implementation": "eager",
        **changes,
    }
    model = Gemma2Model(Gemma2Config(**shared_sizes(module.spec), **special)).eval()
    model.load_state_dict(module.state_dict())
    return model


def test_minicpm_without_its_scales_is_llama_after_every_layer() -> None:
    module = decoder(MINICPM)
    torch.testing.assert_close(states(module, TEXTS[:1]), theirs(llama(module), TEXTS[0]), rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize("scale", [3.0, 12.0])
def test_minicpm_is_llama_with_scaled_embeddings_and_branches(scale: float) -> None:
    # a branch ends in a matrix without bias, so a factor of the branch is one of the matrix
    module = decoder(replace(MINICPM, embedding_scale=scale, branch_scale=1.4 / 2))
    model = llama(module)
    with torch.no_grad():
        model.embed_tokens.weight *= scale
        for layer in model.layers:
            layer.self_attn.o_proj.weight *= 1.4 / 2
            layer.mlp.down_proj.weight *= 1.4 / 2
    torch.testing.assert_close(states(module, TEXTS[:1]), theirs(model, TEXTS[0]), rtol=BOUND, atol=BOUND * scale)


def test_branches_of_no_weight_leave_a_token_its_embedding() -> None:
    found = states(decoder(replace(MINICPM, branch_scale=0.0)), TEXTS[:1])
    assert all(torch.equal(found[0], after) for after in found[1:-1])


def test_the_gemma_2_kind_is_transformers_own_after_every_layer() -> None:
    module = decoder(GEMMA2)
    torch.testing.assert_close(states(module, TEXTS[:1]), theirs(gemma2(module), TEXTS[0]), rtol=BOUND, atol=BOUND)


def test_attention_scores_are_not_capped() -> None:
    module = decoder(GEMMA2)
    capped = theirs(gemma2(module, attn_logit_softcapping=1.0), TEXTS[0])
    assert (states(module, TEXTS[:1]) - capped).abs().max() > 0.01


def test_every_second_layer_has_a_window_the_first_included() -> None:
    module = decoder(GEMMA2)
    whole = decoder(replace(GEMMA2, window=None))
    windowed, unwindowed = states(module, TEXTS[:1]), states(whole, TEXTS[:1])
    torch.testing.assert_close(windowed[1, :5], unwindowed[1, :5], rtol=0, atol=1e-6)
    assert ((windowed[1, 5:] - unwindowed[1, 5:]).abs().amax(dim=1) > 1e-4).all()
    windows = [layer.self_attn.kind.window for layer in module.layers]
    assert windows == [5, None, 5, None]


@pytest.mark.parametrize(("spec", "make"), [(MINICPM, llama), (GEMMA2, gemma2)], ids=KINDS)
def test_projections_may_have_a_bias(spec: LayerwiseSpec, make: Any) -> None:
    module = decoder(replace(spec, projection_bias=True))
    assert module.layers[0].self_attn.o_proj.bias is not None
    torch.testing.assert_close(states(module, TEXTS[:1]), theirs(make(module), TEXTS[0]), rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_texts_get_what_each_gets_alone(kind: str) -> None:
    module = decoder(KINDS[kind])
    alone = torch.cat([states(module, [text]) for text in TEXTS], dim=1)
    torch.testing.assert_close(states(module, TEXTS), alone, rtol=BOUND, atol=BOUND)
    torch.testing.assert_close(states(module, TEXTS, behind=7), alone, rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_text_behind_its_prefix_gets_what_it_gets_whole(kind: str) -> None:
    # the first two texts begin with the same four tokens
    module = decoder(replace(KINDS[kind], window=None))
    prefix, first, second = TEXTS[0][:4], TEXTS[0][4:], TEXTS[1][4:]
    lengths = np.array([4, 8, 3])
    packed = PackedTexts(lengths, CPU, np.array([-1, 0, 0]))
    positions = torch.tensor([*range(4), *range(4, 12), *range(4, 7)])
    x = module.embedded(torch.tensor([*prefix, *first, *second]))
    for layer in range(module.spec.layers):
        x = module.through(layer, x, rotation(positions, module.spec), packed)
    whole = states(module, TEXTS[:2])[-2]
    torch.testing.assert_close(x, torch.cat([whole[:12], whole[16:]]), rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_sees_nothing_behind_it(kind: str) -> None:
    module = decoder(KINDS[kind])
    changed = [*TEXTS[0][:6], 1, 2, 3, 4]
    torch.testing.assert_close(states(module, [changed])[:, :6], states(module, TEXTS[:1])[:, :6], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_runs_and_points_where_float32_does(kind: str) -> None:
    expected = states(decoder(KINDS[kind]), TEXTS)[-1]
    found = states(decoder(KINDS[kind]).to(torch.bfloat16), TEXTS)[-1]
    assert found.dtype == torch.bfloat16
    assert torch.cosine_similarity(found.float(), expected).min() > 0.99


@torch.inference_mode()
def test_embeddings_are_scaled_by_a_factor_of_their_own_precision() -> None:
    # the root of 48 is 6.9282; bfloat16 has 6.9375 beside it
    module = decoder(GEMMA2).to(torch.bfloat16)
    ids = torch.arange(64)
    assert torch.equal(module.embedded(ids), (module.embed_tokens.weight.float() * 6.9375).to(torch.bfloat16))


@pytest.mark.parametrize(("spec", "make"), [(MINICPM, llama), (GEMMA2, gemma2)], ids=KINDS)
@torch.inference_mode()
def test_norms_round_where_transformers_own_do(spec: LayerwiseSpec, make: Any) -> None:
    module = decoder(spec).to(torch.bfloat16)
    x = torch.randn(400, 48, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    found, expected = module.norm(x), make(module).to(torch.bfloat16).norm(x)
    assert found.dtype == torch.bfloat16
    assert (found != expected).float().mean() < 0.001  # float32 may differ in its last bit


def test_rotary_angles_are_positions_times_falling_frequencies() -> None:
    # of 4 components and base 100: frequencies 1 and 0.1
    cosines, sines = rotation(torch.tensor([0, 3]), replace(MINICPM, head_dim=4, rope_theta=100.0))
    angles = torch.tensor([[[0, 0]], [[3, 0.3]]])
    assert cosines.shape == (2, 1, 2)
    assert cosines.dtype == sines.dtype == torch.float32
    torch.testing.assert_close(cosines, angles.cos())
    torch.testing.assert_close(sines, angles.sin())


def test_there_is_a_head_for_each_layer_that_has_one() -> None:
    heads = LayerHeads(PretrainedConfig(), MINICPM)
    assert {name: tuple(weight.shape) for name, weight in heads.state_dict().items()} == {
        f"lm_head.{place}.linear_head.weight": (1, 48) for place in range(3)
    }
