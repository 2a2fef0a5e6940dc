# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's steps, one after the other behind the encoder, with a stand-in for Triton's own module."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from flagtriton.protocol.settings import (
    ColbertSettings,
    DenseSparseSettings,
    EncoderSettings,
    ScorerSettings,
    TokenizerSettings,
)
from flagtriton_server.heads import colbert as multi_vector
from tests.support.checkpoints.tiny import make_m3
from tests.support.steps.fake_backend import Request, answered, ids, imported_steps, responses_of, started

TEXTS = [[0, 7, 9, 7, 30, 2], [0, 2], [0, 5, 6, 2]]
UNWEIGHTED = np.array([[0, 1, 2, 3]], dtype=np.int32)
PAIRS = [("naïve façade", "short"), ("dogs and foxes", "lazy dog"), ("naïve façade", ""), ("naïve façade", "lazy dog")]
SCORES = ["dense", "sparse", "colbert", "sparse_dense", "colbert_sparse_dense"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_m3(tmp_path_factory.mktemp("checkpoints") / "m3")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(monkeypatch, "tokenizer", "encoder", "dense_sparse", "colbert", "scorer") as modules:
        yield modules


class Formulas:
    """docs/reference-behaviour.md#m3-vectors and #m3-scores, text by text and pair by pair."""

    def __init__(self, checkpoint: Path) -> None:
        self.model = AutoModel.from_pretrained(checkpoint).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.sparse, self.colbert = (torch.load(checkpoint / f"{name}_linear.pt") for name in ("sparse", "colbert"))

    @torch.inference_mode()
    def states(self, text: list[int]) -> torch.Tensor:
        return self.model(input_ids=torch.tensor([text])).last_hidden_state[0]

    def lexical(self, text: list[int]) -> dict[int, float]:
        weights = torch.relu(self.states(text) @ self.sparse["weight"].T + self.sparse["bias"])[:, 0].tolist()
        result: dict[int, float] = {}
        for token, weight in zip(text, weights, strict=True):
            if token not in (0, 1, 2, 3) and weight > result.get(token, 0):
                result[token] = weight
        return result

    def dense(self, text: list[int], pooling: str) -> torch.Tensor:
        vector = self.states(text)[0] if pooling == "cls" else self.states(text).mean(dim=0)
        return vector / vector.norm()

    def vectors(self, text: list[int], cut: int | None = None) -> torch.Tensor:
        rows = (self.states(text)[1:] @ self.colbert["weight"].T + self.colbert["bias"])[:, :cut]
        return rows / rows.norm(dim=1, keepdim=True)

    def scores(self, query: str, passage: str, weights: tuple[float, float, float] = (1, 1, 1)) -> list[float]:
        q, p = (self.tokenizer(text)["input_ids"] for text in (query, passage))
        first = [self.states(text)[0] for text in (q, p)]
        dense = float(first[0] @ first[1] / first[0].norm() / first[1].norm())
        mine, theirs = self.lexical(q), self.lexical(p)
        sparse = sum(mine[token] * theirs[token] for token in mine.keys() & theirs.keys())
        colbert = float((self.vectors(q) @ self.vectors(p).T).amax(dim=1).mean())
        w0, w1, w2 = weights
        both = w0 * dense + w1 * sparse
        return [dense, sparse, colbert, both / (w0 + w1), (both + w2 * colbert) / (w0 + w1 + w2)]


@pytest.fixture(scope="module")
def formulas(checkpoint: Path) -> Formulas:
    return Formulas(checkpoint)


def encoded(steps: SimpleNamespace, checkpoint: Path, *requests: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
    """Return the hidden states of each request's `input_ids`."""
    encoder = started(steps.encoder, EncoderSettings(str(checkpoint), 512, token_budget=64, precision="fp32"))
    answers = answered(encoder, *(Request({"input_ids": each}) for each in requests))
    return [answer["hidden_states"] for answer in answers]


def texts_request(steps: SimpleNamespace, checkpoint: Path, texts: list[list[int]], options: str = "") -> Request:
    (states,) = encoded(steps, checkpoint, ids(*texts))
    return Request({"input_ids": ids(*texts), "hidden_states": states, "unweighted_ids": UNWEIGHTED}, options)


def dense_sparse_step(steps: SimpleNamespace, checkpoint: Path, **more: Any) -> Any:
    return started(steps.dense_sparse, DenseSparseSettings(str(checkpoint), "fp32", **more))


def colbert_step(steps: SimpleNamespace, checkpoint: Path, **more: Any) -> Any:
    return started(steps.colbert, ColbertSettings(str(checkpoint), "fp32", **more))


def scorer_step(steps: SimpleNamespace, checkpoint: Path, **more: Any) -> Any:
    return started(steps.scorer, ScorerSettings(str(checkpoint), "fp32", **more))


def tokenizer_step(steps: SimpleNamespace, checkpoint: Path) -> Any:
    return started(steps.tokenizer, TokenizerSettings(str(checkpoint), 64, send_unweighted_ids=True))


def column(*texts: str) -> NDArray[np.object_]:
    return np.array([[text.encode()] for text in texts], dtype=object)


def pairs_request(*pairs: tuple[str, str], options: str = "") -> Request:
    queries, passages = zip(*pairs, strict=True)
    return Request({"query": column(*queries), "passage": column(*passages)}, options)


def scored(
    steps: SimpleNamespace, checkpoint: Path, *requests: Request, **more: Any
) -> list[dict[str, NDArray[np.float32]]]:
    """Return the scores of each request, through tokenizer, encoder and scorer."""
    tokens = answered(tokenizer_step(steps, checkpoint), *requests)
    encoder = started(steps.encoder, EncoderSettings(str(checkpoint), 512, token_budget=64, precision="fp32"))
    pairs = [Request({"input_ids": each["query_ids"], "passage_ids": each["passage_ids"]}) for each in tokens]
    behind = [
        Request({**each, "query_states": s["hidden_states"], "passage_states": s["passage_states"]}, request.options)
        for each, s, request in zip(tokens, answered(encoder, *pairs), requests, strict=True)
    ]
    return answered(scorer_step(steps, checkpoint, **more), *behind)


def with_head(folder: Path, name: str, weight: torch.Tensor, bias: torch.Tensor) -> Path:
    torch.save({"weight": weight, "bias": bias}, folder / f"{name}_linear.pt")
    return folder


def test_passages_beside_queries_get_the_states_that_they_get_alone(steps: SimpleNamespace, checkpoint: Path) -> None:
    encoder = started(steps.encoder, EncoderSettings(str(checkpoint), 512, token_budget=64, precision="fp32"))
    queries, passages = ids(*TEXTS[:1]), ids(*TEXTS)
    both, neither = Request({"input_ids": queries, "passage_ids": passages}), Request({"input_ids": queries})
    together, alone = answered(encoder, both, neither)
    assert (list(together), list(alone)) == (["hidden_states", "passage_states"], ["hidden_states"])
    for tensor, each in {"hidden_states": queries, "passage_states": passages}.items():
        (expected,) = encoded(steps, checkpoint, each)
        assert together[tensor].shape == expected.shape
        np.testing.assert_allclose(together[tensor].view(np.float32), expected.view(np.float32), rtol=0, atol=1e-5)


def test_passages_beside_queries_are_checked_too(steps: SimpleNamespace, checkpoint: Path) -> None:
    encoder = started(steps.encoder, EncoderSettings(str(checkpoint), 512, token_budget=64, precision="fp32"))
    (refused,) = responses_of(encoder, Request({"input_ids": ids(*TEXTS), "passage_ids": ids([10**6])}))
    assert "1000000" in str(refused.error)


def test_lexical_weights_are_those_of_each_text_by_itself(
    steps: SimpleNamespace, checkpoint: Path, formulas: Formulas
) -> None:
    model = dense_sparse_step(steps, checkpoint)
    requests = [texts_request(steps, checkpoint, TEXTS), texts_request(steps, checkpoint, TEXTS[:1])]
    for answer, texts in zip(answered(model, *requests), (TEXTS, TEXTS[:1]), strict=True):
        assert list(answer) == ["dense_vecs", "sparse_ids", "sparse_weights", "done"]
        assert answer["done"].shape == (len(texts), 1)
        for row, weights, text in zip(answer["sparse_ids"], answer["sparse_weights"], texts, strict=True):
            expected = formulas.lexical(text)
            assert row[row >= 0].tolist() == list(expected)
            np.testing.assert_allclose(weights[row >= 0], list(expected.values()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_dense_vectors_are_those_of_each_text_by_itself(
    steps: SimpleNamespace, checkpoint: Path, formulas: Formulas, pooling: str
) -> None:
    model = dense_sparse_step(steps, checkpoint, pooling_method=pooling)
    (answer,) = answered(model, texts_request(steps, checkpoint, TEXTS))
    for vector, text in zip(answer["dense_vecs"], TEXTS, strict=True):
        np.testing.assert_allclose(vector, formulas.dense(text, pooling), rtol=0, atol=1e-6)


def test_dense_vectors_are_normalised_and_cut_as_the_request_or_else_the_deployment_says(
    steps: SimpleNamespace, checkpoint: Path
) -> None:
    raw = dense_sparse_step(steps, checkpoint, normalize=False)
    options = ["", '{"normalize": true}', '{"truncate_dim": 8, "normalize": true}']
    requests = [texts_request(steps, checkpoint, TEXTS, each) for each in options]
    as_they_are, unit, short = (each["dense_vecs"] for each in answered(raw, *requests))
    norms = np.linalg.norm(as_they_are, axis=1, keepdims=True)
    assert (norms > 1.5).all()
    np.testing.assert_allclose(unit, as_they_are / norms, rtol=0, atol=1e-6)
    assert short.shape == (len(TEXTS), 8)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("unweighted", "kept"), [([0, 1, 2, 3], [4, 7]), ([0, 1, 2], [3, 4, 7]), ([-1], [0, 1, 2, 3, 4, 7])]
)
def test_the_ids_that_the_tokenizer_names_bear_no_weight(
    steps: SimpleNamespace, checkpoint: Path, tmp_path: Path, unweighted: list[int], kept: list[int]
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "m3")
    with_head(folder, "sparse", torch.zeros(1, 48), torch.ones(1))  # every token weighs 1
    request = texts_request(steps, folder, [[0, 1, 2, 3, 4, 7]])
    request.tensors["unweighted_ids"] = np.array([unweighted], dtype=np.int32)
    (answer,) = answered(dense_sparse_step(steps, folder), request)
    assert answer["sparse_ids"].tolist() == [kept]
    assert answer["sparse_weights"].tolist() == [[1.0] * len(kept)]


def test_colbert_vectors_are_those_of_each_text_by_itself(
    steps: SimpleNamespace, checkpoint: Path, formulas: Formulas
) -> None:
    (answer,) = answered(colbert_step(steps, checkpoint), texts_request(steps, checkpoint, TEXTS))
    assert answer["colbert_lengths"].tolist() == [[5], [1], [3]]
    assert (answer["colbert_lengths"].dtype, answer["colbert_vecs"].dtype) == (np.int32, np.float32)
    for rows, text in zip(answer["colbert_vecs"], TEXTS, strict=True):
        np.testing.assert_allclose(rows[: len(text) - 1], formulas.vectors(text), rtol=0, atol=1e-5)
        assert not rows[len(text) - 1 :].any()


def test_colbert_vectors_mind_each_requests_options(
    steps: SimpleNamespace, checkpoint: Path, formulas: Formulas
) -> None:
    cut = texts_request(steps, checkpoint, TEXTS[:1], '{"truncate_dim": 2}')
    raw = texts_request(steps, checkpoint, TEXTS[:1], '{"normalize": false}')
    cut_answer, raw_answer = (a["colbert_vecs"] for a in answered(colbert_step(steps, checkpoint), cut, raw))
    np.testing.assert_allclose(cut_answer[0], formulas.vectors(TEXTS[0], cut=2), rtol=0, atol=1e-5)
    assert np.abs(np.linalg.norm(raw_answer[0], axis=1) - 1).min() > 0.01


def test_colbert_vectors_may_travel_as_fp16(steps: SimpleNamespace, checkpoint: Path) -> None:
    asked = texts_request(steps, checkpoint, TEXTS, '{"colbert_dtype": "fp16"}')
    model = colbert_step(steps, checkpoint, colbert_dtype="fp16")
    whole, half = answered(model, texts_request(steps, checkpoint, TEXTS), asked)
    assert whole["colbert_vecs"].dtype == np.float32  # which JSON can carry
    assert half["colbert_vecs"].dtype == np.float16
    np.testing.assert_array_equal(half["colbert_vecs"], whole["colbert_vecs"].astype(np.float16))


def test_colbert_vectors_beyond_one_reply_fail_alone(
    steps: SimpleNamespace, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, requests = colbert_step(steps, checkpoint), [texts_request(steps, checkpoint, [text]) for text in TEXTS[:2]]
    longer, _ = answered(model, *requests)
    monkeypatch.setattr(multi_vector, "_MOST_BYTES", longer["colbert_vecs"].nbytes - 1)
    refused, answer = model.execute(requests)
    assert "colbert_vecs would be [1, 5, " in str(refused.error)
    assert answer.error is None


def test_an_unknown_wire_dtype_is_refused_at_the_start(steps: SimpleNamespace, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="colbert_dtype is 'bf16'; expected fp32 or fp16"):
        colbert_step(steps, checkpoint, colbert_dtype="bf16")


@pytest.mark.parametrize("step", [colbert_step, scorer_step])
def test_another_colbert_dim_than_the_files_is_refused_at_the_start(
    steps: SimpleNamespace, checkpoint: Path, step: Any
) -> None:
    with pytest.raises(ValueError, match=r"colbert_linear\.pt has weight .*expected \[7, 48\]"):
        step(steps, checkpoint, colbert_dim=7)


@pytest.mark.parametrize(
    ("step", "lacking"), [(dense_sparse_step, "sparse"), (scorer_step, "sparse"), (scorer_step, "colbert")]
)
def test_a_head_that_is_missing_is_named_at_the_start(
    steps: SimpleNamespace, checkpoint: Path, tmp_path: Path, step: Any, lacking: str
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "m3")
    (folder / f"{lacking}_linear.pt").unlink()
    with pytest.raises(ValueError, match=rf"m3 has neither {lacking}_linear\.safetensors nor {lacking}_linear\.pt"):
        step(steps, folder)


@pytest.mark.parametrize("step", [dense_sparse_step, colbert_step])
def test_states_that_do_not_fit_their_texts_fail_alone(steps: SimpleNamespace, checkpoint: Path, step: Any) -> None:
    good = texts_request(steps, checkpoint, TEXTS[:1])
    bad = Request({"input_ids": ids([0, 5, 2]), "hidden_states": good.tensors["hidden_states"][:, :2]})
    refused, answer = step(steps, checkpoint).execute([bad, good])
    assert "hidden_states is [1, 2, 192] bytes for 3 rows of 1 texts" in str(refused.error)
    assert answer.error is None


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.2, 0.5, 3)])
def test_every_pair_is_scored_by_the_formula(
    steps: SimpleNamespace, checkpoint: Path, formulas: Formulas, weights: tuple[float, float, float]
) -> None:
    options = json.dumps({"weights": ",".join(map(str, weights))})
    (answer,) = scored(steps, checkpoint, pairs_request(*PAIRS, options=options))
    assert list(answer) == SCORES
    assert {values.shape for values in answer.values()} == {(4, 1)}
    expected = [formulas.scores(*pair, weights) for pair in PAIRS]
    np.testing.assert_allclose(np.hstack(list(answer.values())), expected, rtol=0, atol=1e-5)


def test_a_pair_has_the_same_scores_alone_and_in_company(steps: SimpleNamespace, checkpoint: Path) -> None:
    together, *alone = scored(steps, checkpoint, pairs_request(*PAIRS), *(pairs_request(pair) for pair in PAIRS))
    for name in SCORES:
        np.testing.assert_allclose(together[name], np.vstack([each[name] for each in alone]), rtol=0, atol=1e-6)


def test_vectors_are_compared_as_they_are_where_a_request_says_so(steps: SimpleNamespace, checkpoint: Path) -> None:
    unit, raw = scored(
        steps,
        checkpoint,
        pairs_request(("short", "short")),
        pairs_request(("short", "short"), options='{"normalize": false}'),
    )
    assert unit["dense"][0] == pytest.approx(1, abs=1e-6)
    assert raw["dense"][0] > 2  # the squared length of a vector of 48 numbers around 1
    assert raw["colbert"][0] != pytest.approx(unit["colbert"][0], rel=0.01)
    assert raw["sparse"][0] == pytest.approx(unit["sparse"][0], rel=1e-6)


def test_the_scorer_pools_as_the_deployment_says(steps: SimpleNamespace, checkpoint: Path, formulas: Formulas) -> None:
    (answer,) = scored(steps, checkpoint, pairs_request(PAIRS[0]), pooling_method="mean")
    query, passage = (formulas.states(formulas.tokenizer(t)["input_ids"]).mean(dim=0) for t in PAIRS[0])
    expected = float(query @ passage / query.norm() / passage.norm())
    np.testing.assert_allclose(answer["dense"], [[expected]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("named", [[0, -1], [0, 2], [1, 1]])
def test_rows_that_are_not_those_with_tokens_fail_their_request_alone(
    steps: SimpleNamespace, checkpoint: Path, named: list[int]
) -> None:
    (tokens,) = answered(tokenizer_step(steps, checkpoint), pairs_request(*PAIRS[:2]))
    states = [encoded(steps, checkpoint, tokens[f"{side}_ids"])[0] for side in ("query", "passage")]
    good = {**tokens, "query_states": states[0], "passage_states": states[1]}
    rows = np.array(named, dtype=np.int32)[:, None]
    refused, answer = scorer_step(steps, checkpoint).execute([Request({**good, "passage_rows": rows}), Request(good)])
    assert f"passage_rows names rows {sorted(set(named))} of 2; expected all those of passage_ids" in str(refused.error)
    assert answer.error is None
