# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.heads.classifier`: the head alone gives what the checkpoint's own class gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.settings import RerankerHeadSettings
from flagtriton_server.loading.encoder import choose_precision
from flagtriton_server.steps.reranker_heads import load_reranker_head
from tests.support.checkpoints.tiny import make_bert, make_reranker, make_xlm_roberta

CPU = torch.device("cpu")
FP32 = choose_precision("fp32", CPU)


@pytest.mark.parametrize("make", [make_bert, make_xlm_roberta])
@torch.inference_mode()
def test_the_head_is_the_checkpoints_own(make: Callable[[Path], Path], tmp_path: Path) -> None:
    checkpoint = make_reranker(tmp_path / "ranker", make)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    input_ids = torch.tensor([[2, 7, 8, 3], [2, 9, 11, 3]])
    states = model.base_model(input_ids=input_ids).last_hidden_state[:, 0]  # [P, D]
    scores = load_reranker_head(RerankerHeadSettings(str(checkpoint)), FP32, CPU)(states.unsqueeze(1), RerankOptions())
    assert scores.shape == (2, 1)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, model(input_ids=input_ids).logits, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_scores_of_near_vectors_differ_in_half_precision_too(tmp_path: Path) -> None:
    checkpoint = make_reranker(tmp_path / "ranker", make_bert)
    states = (1 + torch.randn(200, 1, 48, generator=torch.Generator().manual_seed(3)) / 20).bfloat16()
    bf16 = choose_precision("bf16", CPU)
    scores = load_reranker_head(RerankerHeadSettings(str(checkpoint)), bf16, CPU)(states, RerankOptions())
    assert len(scores.unique()) == 200


def test_a_head_for_several_labels_is_refused(tmp_path: Path) -> None:
    checkpoint = make_reranker(tmp_path / "three", make_bert, labels=3)
    with pytest.raises(ValueError, match="has a head for 3 labels; a reranker has one"):
        load_reranker_head(RerankerHeadSettings(str(checkpoint)), FP32, CPU)


def test_a_checkpoint_without_a_head_is_refused(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path / "bare")
    config = (checkpoint / "config.json").read_text(encoding="utf-8")
    (checkpoint / "config.json").write_text(config.replace("{", '{"id2label": {"0": "score"},', 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"lacks .*; it is no reranker of this class"):
        load_reranker_head(RerankerHeadSettings(str(checkpoint)), FP32, CPU)
