# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.heads.dense`: what follows pooling, by numbers that can be checked by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flagtriton_server.heads.dense import load_chain
from flagtriton_server.sentence_transformers.activations import ACTIVATIONS
from tests.support.folders import write_json

WEIGHT = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])  # [C=3, D=2]
BIAS = torch.tensor([0.5, 0.0, -1.0])
VECTORS = torch.tensor([[1.0, -2.0]])  # [B=1, D=2]


def written(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> str:
    config = {"in_features": 2, "out_features": 3, "bias": True, "activation_function": "torch.nn.Identity"}
    write_json(folder / "2_Dense" / "config.json", {**config, **changes})
    save_file(tensors or {"linear.weight": WEIGHT, "linear.bias": BIAS}, folder / "2_Dense" / "model.safetensors")
    return str(folder)


def result(folder: Path, modules: str = "Dense:2_Dense", **changes: Any) -> list[list[float]]:
    vectors: list[list[float]] = load_chain(modules, written(folder, **changes), None)(VECTORS).tolist()
    return vectors


def test_no_modules_leave_vectors_as_they_are() -> None:
    assert load_chain(None, None, None)(VECTORS) is VECTORS


def test_a_dense_layer_is_a_matrix_and_a_bias(tmp_path: Path) -> None:
    # 1 + 0.5; 2 * -2; 1 - 2 - 1
    assert result(tmp_path) == [[1.5, -4.0, -2.0]]


def test_an_activation_follows(tmp_path: Path) -> None:
    assert result(tmp_path, activation_function="torch.nn.modules.activation.ReLU") == [[1.5, 0.0, 0.0]]


def test_without_a_name_the_activation_is_tanh(tmp_path: Path) -> None:
    written(tmp_path)
    write_json(tmp_path / "2_Dense" / "config.json", {"in_features": 2, "out_features": 3})
    expected = torch.tanh(torch.tensor([[1.5, -4.0, -2.0]]))
    assert torch.equal(load_chain("Dense:2_Dense", str(tmp_path), None)(VECTORS), expected)


def test_a_layer_without_a_bias(tmp_path: Path) -> None:
    written(tmp_path, {"linear.weight": WEIGHT}, bias=False)
    assert load_chain("Dense:2_Dense", str(tmp_path), None)(VECTORS).tolist() == [[1.0, -4.0, -1.0]]


def test_a_residual_is_projected_where_the_widths_differ(tmp_path: Path) -> None:
    tensors = {"linear.weight": WEIGHT, "linear.bias": BIAS, "residual.weight": torch.ones(3, 2)}
    written(tmp_path, tensors, use_residual=True)
    # 1 - 2 = -1 is added to each
    assert load_chain("Dense:2_Dense", str(tmp_path), None)(VECTORS).tolist() == [[0.5, -5.0, -3.0]]


def test_a_normalize_between_makes_unit_vectors_first(tmp_path: Path) -> None:
    written(tmp_path)
    chain = load_chain("Normalize,Dense:2_Dense", str(tmp_path), None)
    # 3-4-5: 0.6 + 0.5; 2 * 0.8; 0.6 + 0.8 - 1
    assert chain(torch.tensor([[3.0, 4.0]])).tolist() == [pytest.approx([1.1, 1.6, 0.4])]


def test_a_bfloat16_vector_goes_through_in_float32(tmp_path: Path) -> None:
    chain = load_chain("Dense:2_Dense", written(tmp_path), None)
    assert chain(VECTORS.bfloat16()).dtype == torch.float32


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    written(tmp_path, {"linear.weight": WEIGHT.half(), "linear.bias": BIAS.half()})
    assert load_chain("Dense:2_Dense", str(tmp_path), None)(VECTORS).dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "GLU"])
def test_every_activation_keeps_the_shape(name: str, tmp_path: Path) -> None:
    (vector,) = result(tmp_path, activation_function=f"torch.nn.modules.activation.{name}")
    assert len(vector) == 3


@pytest.mark.parametrize(
    "name", ["torch.nn.modules.activation.PReLU", "torch.nn.Softmax2d", "builtins.print", "os.Tanh", "torch.tanh"]
)
def test_another_activation_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"activation_function '{name}'; served are torch.nn's CELU"):
        result(tmp_path, activation_function=name)


@pytest.mark.parametrize(
    "tensors",
    [
        {"linear.weight": WEIGHT.T.contiguous(), "linear.bias": BIAS},
        {"linear.weight": WEIGHT},
        {"linear.weight": WEIGHT, "linear.bias": BIAS, "more": BIAS.clone()},
        {"weight": WEIGHT, "bias": BIAS},
    ],
    ids=["shape", "missing", "further", "names"],
)
def test_weights_that_do_not_fit_are_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    written(tmp_path, tensors)
    with pytest.raises(ValueError, match=r"model\.safetensors holds .*; its config\.json expects \{'linear\.weight'"):
        load_chain("Dense:2_Dense", str(tmp_path), None)


def test_a_pickles_code_is_not_run(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    written(tmp_path)
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    (tmp_path / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(Bad(), protocol=2))
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        load_chain("Dense:2_Dense", str(tmp_path), None)
    assert not (tmp_path / "ran").exists()


def test_a_layer_without_weights_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"2_Dense has neither model\.safetensors nor pytorch_model\.bin"):
        load_chain("Dense:2_Dense", str(tmp_path), None)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_layer_with_numbers_that_are_none_is_refused_at_load(value: float, tmp_path: Path) -> None:
    written(tmp_path, {"linear.weight": WEIGHT.index_fill(0, torch.tensor([1]), value), "linear.bias": BIAS})
    with pytest.raises(ValueError, match=r"2_Dense/model\.safetensors: .*its weight linear\.weight "):
        load_chain("Dense:2_Dense", str(tmp_path), None)


def test_softmax_is_over_a_vectors_components(tmp_path: Path) -> None:
    expected = torch.tensor([[1.5, -4.0, -2.0]]).softmax(dim=-1)
    assert result(tmp_path, activation_function="torch.nn.modules.activation.Softmax") == expected.tolist()


def test_a_random_slope_is_its_mean(tmp_path: Path) -> None:
    # the mean of 1/8 and 1/3
    expected = [1.5, pytest.approx(-4 * 11 / 48), pytest.approx(-2 * 11 / 48)]
    assert result(tmp_path, activation_function="torch.nn.RReLU") == [expected]


def test_a_glu_leaves_half_of_the_components(tmp_path: Path) -> None:
    written(tmp_path, {"linear.weight": WEIGHT[:2], "linear.bias": BIAS[:2]}, out_features=2)
    glu = {"in_features": 2, "out_features": 2, "activation_function": "torch.nn.GLU"}
    write_json(tmp_path / "2_Dense" / "config.json", glu)
    # 1.5 times the sigmoid of -4
    expected = 1.5 * torch.sigmoid(torch.tensor(-4.0)).item()
    assert load_chain("Dense:2_Dense", str(tmp_path), None)(VECTORS).tolist() == [[pytest.approx(expected)]]


def test_a_glu_of_an_odd_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a GLU of 3 components; expected an even number"):
        result(tmp_path, activation_function="torch.nn.GLU")
