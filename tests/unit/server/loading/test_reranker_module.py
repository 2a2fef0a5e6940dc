# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.loading.reranker_module`: a reranker with code of its own, through the encoder as any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from flagtriton.protocol.settings import EncoderSettings, RerankerHeadSettings
from flagtriton.protocol.tensors import INPUT_IDS, PASSAGE_START
from flagtriton_server.engines.encode import encode_pooled
from flagtriton_server.engines.pooling import cls_pool
from flagtriton_server.loading.encoder import choose_precision, load_encoder
from flagtriton_server.loading.reranker_module import ScoreAsHiddenState
from flagtriton_server.steps.reranker_heads import load_reranker_head
from flagtriton_server.tokenize.cross_encoder_inputs import RerankBatch, encode_pairs
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from tests.support.checkpoints.scoring_model import make_scoring_model
from tests.support.checkpoints.tiny import TEXTS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scoring_model(tmp_path_factory.mktemp("scoring") / "scoring-bert")


def settings(checkpoint: Path, precision: str = "fp32") -> EncoderSettings:
    scoring = {"rows": "first", "token_types": True, "scores": True, "trust_remote_code": True}
    return EncoderSettings(str(checkpoint), 512, 300, precision, **scoring)


@torch.inference_mode()
def test_scores_are_those_of_the_checkpoints_own_code(checkpoint: Path) -> None:
    tokenizer = TextTokenizer.from_checkpoint(str(checkpoint), None, trust_remote_code=True)
    queries, passages = [TEXTS[0]] * len(TEXTS), TEXTS
    rows = encode_pairs(tokenizer, RerankBatch(queries, passages, 384, 512))
    encoder = load_encoder(settings(checkpoint), CPU)
    (scores,) = encode_pooled(encoder, [rows[INPUT_IDS]], 300, cls_pool, [rows[PASSAGE_START]])
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, trust_remote_code=True).eval()
    theirs = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)
    # The last text is empty, which transformers would take for no second text at all.
    expected = [float(model(**theirs(queries[0], passage, return_tensors="pt")).logits) for passage in passages[:-1]]
    assert scores.shape == (len(TEXTS), 1)
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(scores[:-1, 0], expected, atol=1e-5)


def test_scores_are_not_rounded_to_the_encoders_precision(checkpoint: Path) -> None:
    encoder = load_encoder(settings(checkpoint, "bf16"), CPU)
    ids = np.array([[2, 9, 3, 11, 3]], dtype=np.int32)
    (scores,) = encode_pooled(encoder, [ids], 300, cls_pool, [np.array([[3]], dtype=np.int32)])
    assert scores.dtype == torch.float32


@torch.inference_mode()
def test_an_encoder_that_is_not_berts_kin_runs_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "num_labels": 1}
    model = DistilBertForSequenceClassification(DistilBertConfig(**sizes, initializer_range=0.3)).eval()
    model.save_pretrained(tmp_path)
    whole = EncoderSettings(str(tmp_path), 512, 300, "fp32", rows="first", token_types=True, scores=True)
    ids = np.array([[2, 9, 3, 11, 3], [2, 7, 3, -1, -1]], dtype=np.int32)
    starts = np.array([[3], [2]], dtype=np.int32)
    (scores,) = encode_pooled(load_encoder(whole, CPU), [ids], 300, cls_pool, [starts])
    expected = [float(model(torch.tensor([row[row >= 0].tolist()])).logits) for row in ids]
    np.testing.assert_allclose(scores[:, 0], expected, atol=1e-5)
    head = RerankerHeadSettings(str(tmp_path), "fp32")
    with pytest.raises(ValueError, match="is a distilbert, whose head is run with the whole model"):
        load_reranker_head(head, choose_precision("fp32", CPU), CPU)


def test_a_head_for_several_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="mine has a head for 2 labels; a reranker has one"):
        ScoreAsHiddenState(torch.nn.Identity(), 2, "mine")
