# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.loading.precision`: what float32 deployments compute, held to float64."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.engines.base import LoadedEncoder
from flagtriton_server.engines.encode import encode_pooled
from flagtriton_server.engines.pooling import last_token_pool
from flagtriton_server.engines.torch_packed.prefix_attention import AttentionSpec, attention_behind
from flagtriton_server.layerwise import decoder
from flagtriton_server.loading.encoder import load_encoder
from flagtriton_server.loading.precision import ExactRotary, compute_in_full, with_exact_angles
from tests.support.checkpoints.tiny import TEXTS, make_decoder

CPU = torch.device("cpu")
FAMILIES = ["gemma", "gemma2", "llama", "mistral", "qwen2", "qwen3"]
EVERY = [*TEXTS[:9], *(" ".join(TEXTS[i % 9] for i in range(n)) for n in (3, 9, 27))]
POSITIONS = [0, 1, 500, 32_767]


def load(checkpoint: Path, precision: str = "fp32") -> LoadedEncoder:
    return load_encoder(EncoderSettings(str(checkpoint), 512, token_budget=1024, precision=precision), CPU)


class Rotary(nn.Module):  # type: ignore[misc]
    """Stands for transformers' own."""

    def __init__(self, rope_type: str = "default") -> None:
        super().__init__()
        self.rope_type, self.attention_scaling = rope_type, 2.0
        self.inv_freq = torch.tensor([1.0, 0.1])


def test_an_angle_is_a_position_times_a_frequency_however_far_the_position() -> None:
    cosines, sines = ExactRotary(Rotary())(torch.zeros(1), torch.tensor([POSITIONS]))
    assert cosines.shape == (1, 4, 4)
    assert cosines.dtype == torch.float32
    tenth = float(torch.tensor(0.1))  # the frequency as float32 has it
    for row, position in enumerate(POSITIONS):
        for column, frequency in enumerate([1.0, tenth, 1.0, tenth]):
            assert cosines[0, row, column].item() == pytest.approx(2 * math.cos(position * frequency), abs=2e-7)
            assert sines[0, row, column].item() == pytest.approx(2 * math.sin(position * frequency), abs=2e-7)


def test_layered_rerankers_angles_are_as_exact() -> None:
    spec = SimpleNamespace(head_dim=4, rope_theta=100.0)  # frequencies 1 and 100 ** -0.5 = 0.1
    cosines, sines = decoder.rotation(torch.tensor(POSITIONS), spec)
    assert cosines.dtype == torch.float32
    tenth = float(100.0 ** -torch.tensor(0.5))
    for row, position in enumerate(POSITIONS):
        for column, frequency in enumerate([1.0, tenth]):
            assert cosines[row, 0, column].item() == pytest.approx(math.cos(position * frequency), abs=1e-7)
            assert sines[row, 0, column].item() == pytest.approx(math.sin(position * frequency), abs=1e-7)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_frequencies_that_change_with_a_texts_length_are_left_to_transformers(rope_type: str) -> None:
    module = nn.Module()
    module.rotary_emb = Rotary(rope_type)
    with_exact_angles(module)
    assert type(module.rotary_emb) is Rotary


def test_a_model_without_rotary_embeddings_stays_as_it_is() -> None:
    module = nn.Linear(1, 1)
    with_exact_angles(module)
    assert [name for name, _ in module.named_children()] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_decoder_in_float32_has_exact_angles_and_none_in_half_precision(family: str, tmp_path: Path) -> None:
    checkpoint = make_decoder(tmp_path / family, family)
    assert type(load(checkpoint).module.rotary_emb) is ExactRotary
    assert type(load(checkpoint, "bf16").module.rotary_emb) is not ExactRotary


# Against float64.


def in_float64(checkpoint: Path) -> nn.Module:
    """Return transformers' model in float64, its angles, too; its frequencies are those that it has in float32."""
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float64, attn_implementation="eager").eval()
    frequencies = AutoModel.from_config(AutoConfig.from_pretrained(checkpoint)).rotary_emb.inv_freq.double()

    def angles(x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        halves = position_ids[..., None].double() * frequencies
        both = torch.cat((halves, halves), dim=-1)
        return both.cos(), both.sin()

    model.rotary_emb.forward = angles
    return model


@torch.inference_mode()
def alone(model: nn.Module, texts: list[list[int]]) -> Tensor:
    """Return `[B, D]`, each text's last token by itself."""
    return torch.stack([model(input_ids=torch.tensor([text])).last_hidden_state[0, -1] for text in texts])


def ragged(texts: list[list[int]]) -> NDArray[np.int32]:
    rows = np.full((len(texts), max(map(len, texts))), -1, dtype=np.int32)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return rows


@torch.inference_mode()
def as_flagembedding_pads(checkpoint: Path, texts: list[list[int]]) -> Tensor:
    """Return `[B, D]` of transformers' model for texts padded at the left, where all positions are counted from."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer.pad({"input_ids": texts}, return_tensors="pt")
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    return outputs.last_hidden_state[:, -1]


def error(answers: Tensor, truth: Tensor) -> float:
    """Return the greatest distance of a component, as a share of its vector's greatest component."""
    return ((answers - truth).abs().amax(dim=1) / truth.abs().amax(dim=1)).max().item()


@pytest.mark.parametrize("shared", [False, True], ids=["texts of their own", "behind one prefix"])
@pytest.mark.parametrize("family", ["gemma2", "mistral", "llama"])
def test_vectors_in_float32_are_nearer_to_float64_than_those_of_padded_texts(
    family: str, shared: bool, tmp_path: Path
) -> None:
    checkpoint = make_decoder(tmp_path / family, family)
    prefix = f"{TEXTS[0]} {TEXTS[4]} " if shared else ""
    texts = AutoTokenizer.from_pretrained(checkpoint)([f"{prefix}{text}" for text in EVERY])["input_ids"]
    truth = alone(in_float64(checkpoint), texts)
    (ours,) = encode_pooled(load(checkpoint), [ragged(texts)], 1024, last_token_pool)
    assert error(ours, truth) < 8e-6
    assert error(ours, truth) < error(as_flagembedding_pads(checkpoint, texts), truth)


@pytest.mark.parametrize("size", [0.0, 3.0, 7.0, 11.0, 19.0])
def test_weights_over_a_prefix_and_a_texts_own_tokens_add_up_to_1_however_great_the_scores(size: float) -> None:
    # the mean of ones is 1; a weight over scores near the cap of 50 was wrong by a last digit of 50, which is 4e-6
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(1, 2, 6, 8, generator=generator).abs() * size for _ in range(2))
    prefix = key[0].transpose(0, 1)[:4] * 1.1, torch.ones(4, 2, 8)
    answer = attention_behind(prefix, query, key, torch.ones(1, 2, 6, 8), AttentionSpec(causal=True, softcap=50.0))
    assert (answer - 1).abs().max() < 4e-7


@pytest.mark.parametrize("name", ["ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"])
@pytest.mark.parametrize("mode", ["BF16", "any", "TF32"])
def test_an_environment_that_rounds_products_is_refused_for_float32_alone(
    name: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_decoder(tmp_path / "llama", "llama")
    monkeypatch.setenv(name, mode)
    with pytest.raises(ValueError, match=rf"^{name} is '{mode}' in the server's environment, .*; unset it, or add"):
        load(checkpoint)
    assert load(checkpoint, "bf16") is not None
    monkeypatch.setenv(name, "strict")
    assert load(checkpoint) is not None


def test_products_on_a_gpu_are_not_rounded_to_tf32() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        compute_in_full()
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)
