# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.engines.torch_packed.fused_bert`: layers in few operations, held to transformers' own."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from flagtriton_server.engines.torch_packed.attention import PackedTexts
from flagtriton_server.engines.torch_packed.fused_bert import BertBlock, FusedLinear, fuse_bert_layers

KIN = {
    "bert": (BertModel, BertConfig),
    "roberta": (RobertaModel, RobertaConfig),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig),
    "camembert": (CamembertModel, CamembertConfig),
}
SIZES = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LENGTHS = [20, 16, 3, 1]
every_kin = pytest.mark.parametrize("kind", KIN)


def tiny(kind: str, **changes: Any) -> nn.Module:
    """Return a model of 2 layers with weights wide enough that every part of a layer shows in its answer."""
    model_class, config_class = KIN[kind]
    torch.manual_seed(3)
    model = model_class(config_class(**{**SIZES, **changes}), add_pooling_layer=False).eval()
    return spread(model)


def spread(model: nn.Module) -> nn.Module:
    """Give a model's parameters, biases and norms too, random values."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def hidden_states(dtype: torch.dtype = torch.float32) -> Tensor:
    """Return `[1, N, D]`."""
    return torch.randn(1, sum(LENGTHS), 32, generator=torch.Generator().manual_seed(4)).to(dtype)


@torch.inference_mode()
def by_transformers(layer: nn.Module, states: Tensor) -> Tensor:
    """Return a layer's own answer `[1, N, D]`, each text by itself."""
    return torch.cat([layer(text) for text in states.split(LENGTHS, dim=1)], dim=1)


@torch.inference_mode()
def by_block(layer: nn.Module, states: Tensor) -> Tensor:
    return BertBlock(layer)(states, packed=PackedTexts(np.array(LENGTHS), torch.device("cpu")))


@every_kin
def test_a_block_answers_as_the_layer_it_stands_for(kind: str) -> None:
    layer, states = tiny(kind).encoder.layer[0], hidden_states()
    torch.testing.assert_close(by_block(layer, states), by_transformers(layer, states), rtol=0, atol=1e-5)


@every_kin
def test_in_bfloat16_a_block_points_where_its_layer_points_in_float32(kind: str) -> None:
    layer, states = tiny(kind).encoder.layer[0], hidden_states()
    answers = by_block(copy.deepcopy(layer).bfloat16(), states.bfloat16())
    assert answers.dtype == torch.bfloat16
    cosines = functional.cosine_similarity(answers.float(), by_transformers(layer, states), dim=-1)  # [1, N]
    assert cosines.min() > 0.999


def test_the_two_layers_of_these_tests_answer_differently() -> None:
    first, second = tiny("bert").encoder.layer
    states = hidden_states()
    assert functional.cosine_similarity(by_block(first, states), by_block(second, states), dim=-1).max() < 0.9


@torch.inference_mode()
def test_kernels_are_built_for_every_matrix_of_a_block_at_every_length_told(monkeypatch: pytest.MonkeyPatch) -> None:
    block = BertBlock(tiny("bert").encoder.layer[0])
    run: list[tuple[str, int]] = []
    for name, after in (("query_key_value", "forward"), ("output", "plus"), ("up", "gelu"), ("down", "plus")):
        method = getattr(getattr(block, name), after)

        def noted(x: Tensor, *more: Tensor, name: str = name, method: Any = method) -> Tensor:
            run.append((name, len(x)))
            return method(x, *more)

        monkeypatch.setattr(getattr(block, name), after, noted)
    block.build_kernels([16, 32])
    assert sorted(run) == sorted((name, n) for name in ("query_key_value", "output", "up", "down") for n in (16, 32))


@every_kin
def test_all_layers_of_berts_kin_are_replaced(kind: str) -> None:
    model = tiny(kind)
    assert fuse_bert_layers(model) is True
    assert [type(layer) for layer in model.encoder.layer] == [BertBlock, BertBlock]


@every_kin
def test_a_model_of_blocks_answers_as_before(kind: str) -> None:
    model = tiny(kind)
    ids = torch.randint(3, 30, (1, 11), generator=torch.Generator().manual_seed(5))  # [1, T], no padding id
    with torch.inference_mode():
        before = model(input_ids=ids).last_hidden_state
        fuse_bert_layers(model)
        after = model(input_ids=ids, packed=PackedTexts(np.array([11]), torch.device("cpu"))).last_hidden_state
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def assert_left_alone(model: nn.Module) -> None:
    before = {name: type(module) for name, module in model.named_modules()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert fuse_bert_layers(model) is False
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "silu"])
@every_kin
def test_a_model_with_another_activation_than_exact_gelu_is_left_as_it_is(kind: str, activation: str) -> None:
    assert_left_alone(tiny(kind, hidden_act=activation))


@every_kin
def test_a_decoder_is_left_as_it_is(kind: str) -> None:
    assert_left_alone(tiny(kind, is_decoder=True))


def test_one_odd_layer_keeps_all_others_as_they_are() -> None:
    model = tiny("bert")
    model.encoder.layer[1] = tiny("bert", hidden_act="relu").encoder.layer[1]
    assert_left_alone(model)


def test_an_encoder_without_layers_is_left_as_it_is() -> None:
    assert_left_alone(tiny("bert", num_hidden_layers=0))


def identity_and_double() -> FusedLinear:
    """Return `x -> (x + 1, 2 x - 1)` for numbers x."""
    same, twice = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for layer, weight, bias in ((same, 1.0, 1.0), (twice, 2.0, -1.0)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    return FusedLinear([same, twice])


INPUTS = torch.tensor([[0.0], [1.0], [-2.0]])  # [N=3, 1]


@torch.inference_mode()
def test_fused_outputs_lie_side_by_side() -> None:
    assert identity_and_double()(INPUTS).tolist() == [[1, -1], [2, 1], [-1, -5]]


@torch.inference_mode()
def test_a_residual_is_added_to_the_result() -> None:
    residual = torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])
    assert identity_and_double().plus(INPUTS, residual).tolist() == [[11, 19], [32, 41], [49, 55]]


@torch.inference_mode()
def test_a_residual_is_left_as_it_was() -> None:
    residual = torch.zeros(3, 2)
    identity_and_double().plus(INPUTS, residual)
    assert not residual.any()


@torch.inference_mode()
def test_gelu_is_exact() -> None:
    # x (1 + erf(x / sqrt 2)) / 2: 0.841345 at 1, -0.158655 at -1; the tanh approximation has 0.841192 at 1
    assert identity_and_double().gelu(INPUTS[:1]).tolist() == [pytest.approx([0.841345, -0.158655], abs=1e-6)]


@torch.inference_mode()
def test_without_the_processors_own_kernels_results_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = identity_and_double()
    assert not plain.weight.is_mkldnn
    assert plain(INPUTS).tolist() == [[1, -1], [2, 1], [-1, -5]]
    assert plain.plus(INPUTS, torch.ones(3, 2)).tolist() == [[2, 0], [3, 2], [0, -4]]
    assert plain.gelu(INPUTS[:1]).tolist() == [pytest.approx([0.841345, -0.158655], abs=1e-6)]


HALF = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
every_half = pytest.mark.parametrize("dtype", HALF, ids=str)


def say_of_kernels(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, supported: bool) -> list[torch.dtype]:
    """Have oneDNN say whether it has kernels of a dtype; return the list of dtypes that weights are repacked in."""
    repacked: list[torch.dtype] = []

    def as_it_is(weight: Tensor) -> Tensor:
        repacked.append(weight.dtype)
        return weight

    monkeypatch.setattr(torch.ops.mkldnn, HALF[dtype], lambda: supported)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", as_it_is)
    return repacked


@every_half
@torch.inference_mode()
def test_a_processor_without_kernels_of_a_half_precision_is_answered_with_plain_ones(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    repacked = say_of_kernels(monkeypatch, dtype, supported=False)
    same = nn.Linear(1, 1, dtype=dtype)
    same.weight.fill_(2.0)
    same.bias.fill_(1.0)
    fused, one = FusedLinear([same]), torch.ones(1, 1, dtype=dtype)
    assert repacked == []
    assert [fused(one).item(), fused.plus(one, one).item()] == [3, 4]
    assert fused.gelu(one - 1).item() == pytest.approx(0.841345, abs=0.004)  # GELU(1), to 8 or 11 bits


@every_half
def test_a_processor_with_kernels_of_a_half_precision_has_weights_repacked_for_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    repacked = say_of_kernels(monkeypatch, dtype, supported=True)
    FusedLinear([nn.Linear(1, 1, dtype=dtype)])
    assert repacked == [dtype]


def test_float32_has_kernels_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HALF.values():
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: False)
    assert identity_and_double().weight.is_mkldnn
