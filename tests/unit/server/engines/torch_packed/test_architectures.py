# SPDX-License-Identifier: Apache-2.0
"""Every architecture that the server knows, end to end or padded: each text's answer is the model's own to it alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from flagtriton.protocol.architectures import ARCHITECTURES
from flagtriton.protocol.settings import EncoderSettings
from flagtriton_server.engines.base import LoadedEncoder
from flagtriton_server.engines.encode import encode
from flagtriton_server.loading import encoder as loading
from flagtriton_server.loading.encoder import load_encoder
from flagtriton_server.loading.packing_check import agree

CPU = torch.device("cpu")
TOLERANCE = 1e-5  # of a float32 vector's size
WINDOW = 5  # tokens; most texts here are longer
VOCABULARY, PAD = 64, 1
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SPECIAL = {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2}
ENCODER = {**SIZES, **SPECIAL, "intermediate_size": 48, "max_position_embeddings": 64}
DECODER = {**ENCODER, "num_key_value_heads": 2, "head_dim": 8}  # two heads share keys and values
QWEN2 = {name: value for name, value in DECODER.items() if name != "head_dim"}
DISTIL = {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, **SPECIAL}

PACKED: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertConfig(**ENCODER),
    "bert with relu": lambda: transformers.BertConfig(**ENCODER, hidden_act="relu"),
    "bert as a decoder": lambda: transformers.BertConfig(**ENCODER, is_decoder=True),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**ENCODER),
    "roberta": lambda: transformers.RobertaConfig(**ENCODER),
    "camembert": lambda: transformers.CamembertConfig(**ENCODER),
    "mistral": lambda: transformers.MistralConfig(**DECODER, sliding_window=WINDOW),
    "mistral without a window": lambda: transformers.MistralConfig(**DECODER, sliding_window=None),
    "llama": lambda: transformers.LlamaConfig(**DECODER),
    "qwen2": lambda: transformers.Qwen2Config(**QWEN2),
    "qwen2 with a window in some layers": lambda: transformers.Qwen2Config(
        **QWEN2, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**DECODER),
    "gemma": lambda: transformers.GemmaConfig(**DECODER),
    "modernbert": lambda: transformers.ModernBertConfig(
        **ENCODER, local_attention=2 * WINDOW, global_attn_every_n_layers=3, hidden_activation="gelu"
    ),
    "modernbert with one rotary base": lambda: transformers.ModernBertConfig(
        **ENCODER, local_attention=2 * WINDOW, global_attn_every_n_layers=2, local_rope_theta=160_000.0
    ),
    "gemma2": lambda: transformers.Gemma2Config(
        **DECODER, sliding_window=WINDOW, query_pre_attn_scalar=8, attn_logit_softcapping=0.5
    ),
}
PADDED: dict[str, Callable[[], Any]] = {
    "mpnet": lambda: transformers.MPNetConfig(**ENCODER),
    "distilbert": lambda: transformers.DistilBertConfig(**DISTIL, max_position_embeddings=64),
}
BY_LENGTH: dict[str, Callable[[], Any]] = {
    "convbert": lambda: transformers.ConvBertConfig(**ENCODER, embedding_size=32),
    "mobilebert": lambda: transformers.MobileBertConfig(
        **ENCODER, embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16
    ),
    "nystromformer": lambda: transformers.NystromformerConfig(**ENCODER, segment_means_seq_len=64, num_landmarks=64),
}
"""Architectures in which a text sees the padding behind it."""

WITH_A_POOLER: dict[str, Callable[[], Any]] = {
    "squeezebert": lambda: transformers.SqueezeBertConfig(**ENCODER, embedding_size=32),
    "layoutlm": lambda: transformers.LayoutLMConfig(**ENCODER),
}
"""Architectures that call their pooler without asking whether there is one."""

PADDED |= WITH_A_POOLER


def some_texts() -> list[list[int]]:
    """Return texts of 1 to 40 tokens, some of which have the padding id inside."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, VOCABULARY, length).tolist() for length in range(1, 41)]


TEXTS = some_texts()


def save(config: Any, folder: Path) -> Path:
    """Write a checkpoint with weights so wide that a token shows what it attends to; return its folder."""
    torch.manual_seed(1)
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return folder


def load(checkpoint: Path, precision: str = "fp32") -> LoadedEncoder:
    return load_encoder(EncoderSettings(str(checkpoint), 60, token_budget=256, precision=precision), CPU)


def served(encoder: LoadedEncoder) -> list[Tensor]:
    """Return `[T, D]` for every text, all sent together."""
    ids = np.full((len(TEXTS), max(map(len, TEXTS))), -1, dtype=np.int32)
    for row, text in zip(ids, TEXTS, strict=True):
        row[: len(text)] = text
    (states,) = encode(encoder, [ids], token_budget=256)
    return list(states.flatten(0, 1)[: sum(map(len, TEXTS))].split([len(text) for text in TEXTS]))


@torch.inference_mode()
def by_transformers(checkpoint: Path, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return `[T, D]` for every text, each alone through the plain model."""
    model = transformers.AutoModel.from_pretrained(checkpoint, dtype=dtype).eval()
    return [model(input_ids=torch.tensor([text])).last_hidden_state[0] for text in TEXTS]


def worst_error(answers: list[Tensor], expected: list[Tensor]) -> float:
    """Return the greatest distance of two token vectors, as a share of their length."""
    got, wanted = torch.cat(answers), torch.cat(expected)  # [N, D]
    return ((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max().item()


def test_some_of_these_texts_have_the_padding_id_inside() -> None:
    holding = [text for text in TEXTS if PAD in text]
    assert len(holding) > 5
    assert any(PAD in text[1:-1] for text in holding)


@pytest.mark.parametrize("architecture", PACKED)
def test_a_text_end_to_end_with_others_is_answered_as_if_alone(architecture: str, tmp_path: Path) -> None:
    encoder = load(save(PACKED[architecture](), tmp_path))
    assert encoder.packed is True
    assert worst_error(served(encoder), by_transformers(tmp_path)) < TOLERANCE


@pytest.mark.parametrize("architecture", PADDED)
def test_a_text_padded_beside_others_is_answered_as_if_alone(architecture: str, tmp_path: Path) -> None:
    encoder = load(save(PADDED[architecture](), tmp_path))
    assert encoder.packed is False
    assert worst_error(served(encoder), by_transformers(tmp_path)) < TOLERANCE


@pytest.mark.parametrize("architecture", BY_LENGTH)
def test_a_text_that_would_see_padding_is_answered_as_if_alone(
    architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = load(save(BY_LENGTH[architecture](), tmp_path))
    assert encoder.pads is False
    assert f"{tmp_path}: padding changes its answers" in caplog.text
    assert worst_error(served(encoder), by_transformers(tmp_path)) < TOLERANCE


def test_a_text_whose_padding_changes_nothing_may_be_padded(tmp_path: Path) -> None:
    assert load(save(PADDED["distilbert"](), tmp_path)).pads is True


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("mistral", {"sliding_window": WINDOW + 1}),
        ("gemma2", {"sliding_window": WINDOW + 1}),
        ("gemma2", {"attn_logit_softcapping": 0.7}),
        ("bert as a decoder", {"is_decoder": False}),
    ],
)
def test_what_a_configuration_asks_of_attention_shows_in_these_answers(
    architecture: str, change: dict[str, Any], tmp_path: Path
) -> None:
    config = PACKED[architecture]()
    before = by_transformers(save(config, tmp_path / "before"))
    config.update(change)
    after = by_transformers(save(config, tmp_path / "after"))
    assert worst_error(after, before) > 1000 * TOLERANCE


def test_every_architecture_that_is_served_end_to_end_is_held_to_its_padded_answers_here() -> None:
    assert {make().model_type for make in PACKED.values()} == {
        row.model_type for row in ARCHITECTURES.values() if row.packed
    }


@pytest.mark.parametrize("architecture", ["bert", "mistral"])
def test_in_bfloat16_texts_point_where_the_model_has_them_alone_in_bfloat16(architecture: str, tmp_path: Path) -> None:
    encoder = load(save(PACKED[architecture](), tmp_path), "bf16")
    assert encoder.packed is True
    answers, expected = torch.cat(served(encoder)), torch.cat(by_transformers(tmp_path, torch.bfloat16))
    assert torch.nn.functional.cosine_similarity(answers.float(), expected.float(), dim=-1).min() > 0.99


def test_a_model_whose_packed_answers_differ_is_padded_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(PACKED["bert"](), tmp_path)
    monkeypatch.setattr(loading, "agree", lambda *_: False)
    with caplog.at_level(logging.WARNING, logger="flagtriton_server.loading.encoder"):
        encoder = load(tmp_path)
    assert f"{tmp_path}: packed answers differ from padded ones, so texts are padded" in caplog.messages
    assert encoder.packed is False
    assert worst_error(served(encoder), by_transformers(tmp_path)) < TOLERANCE


def test_a_decoder_that_looks_both_ways_is_found_out_and_padded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # transformers reads `is_causal` for its masks alone; the layers say causal, and so does packed attention
    encoder = load(save(transformers.LlamaConfig(**DECODER, is_causal=False), tmp_path))
    assert "packed answers differ from padded ones" in caplog.text
    assert encoder.packed is False
    assert worst_error(served(encoder), by_transformers(tmp_path)) < TOLERANCE


def test_a_model_that_runs_end_to_end_is_loaded_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(save(PACKED["xlm-roberta"](), tmp_path))
    assert not [record for record in caplog.records if record.name.startswith("flagtriton")]


def test_a_checkpoint_that_brings_its_own_code_is_padded(tmp_path: Path) -> None:
    save(PACKED["bert"](), tmp_path)
    settings = EncoderSettings(str(tmp_path), 60, token_budget=256, precision="fp32", trust_remote_code=True)
    encoder = load_encoder(settings, CPU)
    assert (encoder.packed, encoder.pads) == (False, True)
    assert worst_error(served(encoder), by_transformers(tmp_path)) < TOLERANCE


UP, ALMOST, NEAR, ASIDE = [1.0, 0.0], [1.0, 0.001], [1.0, 0.1], [1.0, 0.2]
"""Cosines with UP: 1 - 5e-7 for ALMOST, 0.995 for NEAR, 0.98 for ASIDE."""


@pytest.mark.parametrize(
    ("answer", "computed", "same"),
    [
        (ALMOST, torch.float32, True),
        (NEAR, torch.float32, False),
        (NEAR, torch.bfloat16, True),
        (NEAR, torch.float16, True),
        (ASIDE, torch.bfloat16, False),
    ],
)
def test_answers_agree_if_every_token_points_the_same_way_but_for_rounding(
    answer: list[float], computed: torch.dtype, same: bool
) -> None:
    assert agree(torch.tensor([UP, UP, UP]), torch.tensor([UP, answer, UP]), computed) is same
