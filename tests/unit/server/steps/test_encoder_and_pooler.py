# SPDX-License-Identifier: Apache-2.0
"""The encoder and pooler steps, one after the other, with a stand-in for Triton's own module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from flagtriton.protocol.settings import EncoderSettings, PoolerSettings, rows_needed
from tests.support.checkpoints.tiny import make_bert
from tests.support.steps.fake_backend import Request, answered, ids, imported_steps, started

HIDDEN_SIZE = 48
TEXTS = [[2, 7, 9, 30, 3], [2, 3], [2, 5, 6, 3]]
POOLINGS = ["cls", "mean", "last_token"]
every_pooling = pytest.mark.parametrize("pooling_method", POOLINGS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(monkeypatch, "encoder", "pooler") as modules:
        yield modules


def encoder_settings(checkpoint: Path, **more: Any) -> EncoderSettings:
    return EncoderSettings(str(checkpoint), 512, token_budget=64, **{"precision": "fp32", **more})


def expected(checkpoint: Path, pooling_method: str, texts: list[list[int]]) -> NDArray[np.float32]:
    """Return unit vectors `[B, D]`, zero for a text without tokens, from transformers' model, text by text."""
    model = AutoModel.from_pretrained(checkpoint).eval()
    reduce = {"cls": lambda s: s[0], "mean": lambda s: s.mean(dim=0), "last_token": lambda s: s[-1]}[pooling_method]
    vectors = np.zeros((len(texts), HIDDEN_SIZE), dtype=np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        if text:
            with torch.inference_mode():
                picked = reduce(model(input_ids=torch.tensor([text])).last_hidden_state[0])
            vector[:] = picked / picked.norm()
    return vectors


def through_both(steps: SimpleNamespace, checkpoint: Path, method: str, *requests: list[list[int]], **more: Any) -> Any:
    """Return the embeddings of each request, by an encoder that sends what the pooler reads."""
    encoder = started(steps.encoder, encoder_settings(checkpoint, rows=rows_needed(method), **more))
    pooler = started(steps.pooler, PoolerSettings(method, more.get("precision", "fp32"), rows=rows_needed(method)))
    sent = [ids(*texts) for texts in requests]
    states = [answer["hidden_states"] for answer in answered(encoder, *(Request({"input_ids": each}) for each in sent))]
    both = [Request({"input_ids": a, "hidden_states": b}) for a, b in zip(sent, states, strict=True)]
    return [answer["dense_vecs"] for answer in answered(pooler, *both)]


@every_pooling
def test_what_the_encoder_sends_is_what_the_pooler_reads(
    steps: SimpleNamespace, checkpoint: Path, pooling_method: str
) -> None:
    first, second = through_both(steps, checkpoint, pooling_method, TEXTS, TEXTS[:1])
    np.testing.assert_allclose(first, expected(checkpoint, pooling_method, TEXTS), rtol=0, atol=1e-5)
    np.testing.assert_allclose(second, expected(checkpoint, pooling_method, TEXTS[:1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("texts", [[TEXTS[0], [], TEXTS[2]], [[], TEXTS[1]], [TEXTS[1], []]], ids=str)
@every_pooling
def test_a_text_without_tokens_is_zero_and_its_neighbours_are_answered(
    steps: SimpleNamespace, checkpoint: Path, pooling_method: str, texts: list[list[int]]
) -> None:
    (vectors,) = through_both(steps, checkpoint, pooling_method, texts)
    np.testing.assert_allclose(vectors, expected(checkpoint, pooling_method, texts), rtol=0, atol=1e-5)


@every_pooling
def test_bfloat16_states_cross_between_the_steps(steps: SimpleNamespace, checkpoint: Path, pooling_method: str) -> None:
    (vectors,) = through_both(steps, checkpoint, pooling_method, TEXTS, precision="bf16")
    cosines = (vectors * expected(checkpoint, pooling_method, TEXTS)).sum(axis=1)
    assert cosines.min() > 0.99


@every_pooling
def test_an_encoder_that_pools_answers_as_the_two_steps_do(
    steps: SimpleNamespace, checkpoint: Path, pooling_method: str
) -> None:
    encoder = started(steps.encoder, encoder_settings(checkpoint, pooling_method=pooling_method))
    (answer,) = answered(encoder, Request({"input_ids": ids(*TEXTS)}))
    assert list(answer) == ["dense_vecs"]
    np.testing.assert_allclose(answer["dense_vecs"], expected(checkpoint, pooling_method, TEXTS), rtol=0, atol=1e-5)


def test_an_encoder_that_pools_minds_each_requests_options(steps: SimpleNamespace, checkpoint: Path) -> None:
    encoder = started(steps.encoder, encoder_settings(checkpoint, pooling_method="cls"))
    cut = Request({"input_ids": ids(*TEXTS)}, '{"truncate_dim": 2}')
    raw = Request({"input_ids": ids(*TEXTS)}, '{"normalize": false}')
    cut_answer, raw_answer = (answer["dense_vecs"] for answer in answered(encoder, cut, raw))
    assert (cut_answer.shape, raw_answer.shape) == ((3, 2), (3, HIDDEN_SIZE))
    np.testing.assert_allclose(np.linalg.norm(cut_answer, axis=1), 1, atol=1e-6)
    assert np.abs(np.linalg.norm(raw_answer, axis=1) - 1).min() > 0.1


@pytest.mark.parametrize(("rows", "a_text"), [("first", 1), ("last", 1), ("all", 4)])
def test_no_more_rows_leave_the_encoder_than_it_was_told(
    steps: SimpleNamespace, checkpoint: Path, rows: str, a_text: int
) -> None:
    encoder = started(steps.encoder, encoder_settings(checkpoint, rows=rows))
    (answer,) = answered(encoder, Request({"input_ids": ids(*TEXTS)}))
    # all: 5 + 2 + 4 tokens of 3 texts are 4 rows a text, one of twelve left over; a float32 is 4 bytes
    assert (answer["hidden_states"].shape, answer["hidden_states"].dtype) == ((3, a_text, 4 * HIDDEN_SIZE), np.uint8)


def test_an_unknown_choice_of_rows_is_refused_at_the_start(steps: SimpleNamespace, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="rows is 'middle'; expected one of all, first, last"):
        started(steps.encoder, encoder_settings(checkpoint, rows="middle"))


def test_an_unknown_pooling_is_refused_at_the_start_of_either_step(steps: SimpleNamespace, checkpoint: Path) -> None:
    sentence = "pooling_method is 'median'; expected one of cls, mean, last_token"
    with pytest.raises(ValueError, match=sentence):
        started(steps.encoder, encoder_settings(checkpoint, pooling_method="median"))
    with pytest.raises(ValueError, match=sentence):
        started(steps.pooler, PoolerSettings("median"))


def test_states_that_do_not_fit_their_texts_fail_alone(steps: SimpleNamespace) -> None:
    pooler = started(steps.pooler, PoolerSettings("mean", "fp32"))
    good = Request({"input_ids": ids([2, 3]), "hidden_states": np.ones((1, 2, 8), np.uint8)})
    short = Request({"input_ids": ids([2, 5, 3]), "hidden_states": np.ones((1, 2, 8), np.uint8)})
    refused, answer = pooler.execute([short, good])
    assert "hidden_states is [1, 2, 8] bytes for 3 rows of 1 texts" in str(refused.error)
    assert answer.tensors["dense_vecs"].shape == (1, 2)
