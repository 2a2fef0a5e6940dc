# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.encoding`: every request gets its own rows back, as if it had come alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertModel

from flagtriton_server.encoding import check_token_ids, encode_rows
from flagtriton_server.loading import LoadedEncoder, Precision
from flagtriton_server.rejection import RequestError

HIDDEN_SIZE = 8
VOCAB_SIZE = 20
ROWS = [[2, 7, 9, 3], [2, 3], [2, 5, 6, 7, 8, 3], [11], [2, 4, 3]]


@pytest.fixture(scope="module")
def encoder() -> LoadedEncoder:
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        initializer_range=0.5,
    )
    module = BertModel(config, add_pooling_layer=False).eval()
    precision = Precision("fp32", torch.float32, torch.float32)
    return LoadedEncoder(module, torch.device("cpu"), precision, VOCAB_SIZE, 0, HIDDEN_SIZE)


def request(*rows: list[int], tokens: int | None = None) -> NDArray[np.int32]:
    """Return `[B, T]` ids, T as given or the longest row's."""
    filled = np.full((len(rows), tokens or max(map(len, rows))), -1, dtype=np.int32)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return filled


def alone(encoder: LoadedEncoder, row: list[int]) -> NDArray[np.float32]:
    """Return the model's own answer, `[T, D]`, to one row without padding."""
    with torch.inference_mode():
        return encoder.module(input_ids=torch.tensor([row])).last_hidden_state[0].numpy()


def test_the_tests_model_tells_rows_apart(encoder: LoadedEncoder) -> None:
    firsts = [alone(encoder, row)[0] for row in ROWS]
    distances = [np.abs(a - b).max() for i, a in enumerate(firsts) for b in firsts[:i]]
    assert min(distances) > 0.01


def test_a_row_alone_and_in_company_agree(encoder: LoadedEncoder) -> None:
    (together,) = encode_rows(encoder, [request(*ROWS)], token_budget=1000)
    for row, states in zip(ROWS, together, strict=True):
        np.testing.assert_allclose(states[: len(row)], alone(encoder, row), rtol=0, atol=1e-6)


@pytest.mark.parametrize("token_budget", [1, 4, 7, 12, 1000])
def test_every_request_gets_its_own_rows_back_in_order(encoder: LoadedEncoder, token_budget: int) -> None:
    requests = [request(*ROWS[:2]), request(ROWS[2]), request(*ROWS[3:])]
    answers = encode_rows(encoder, requests, token_budget)
    assert [answer.shape for answer in answers] == [(2, 4, 8), (1, 6, 8), (2, 3, 8)]
    answered = [states for answer in answers for states in answer]
    for row, states in zip(ROWS, answered, strict=True):
        np.testing.assert_allclose(states[: len(row)], alone(encoder, row), rtol=0, atol=1e-6)


def test_states_behind_a_rows_end_are_zero(encoder: LoadedEncoder) -> None:
    (states,) = encode_rows(encoder, [request([2, 3], [2, 4, 5, 3])], token_budget=1000)
    assert not states[0, 2:].any()
    assert states[1].all()


def test_a_request_wider_than_its_rows_keeps_its_width(encoder: LoadedEncoder) -> None:
    (states,) = encode_rows(encoder, [request([2, 3], tokens=5)], token_budget=1000)
    assert states.shape == (1, 5, HIDDEN_SIZE)
    assert not states[0, 2:].any()


def test_a_row_without_tokens_is_zero_beside_one_that_has_some(encoder: LoadedEncoder) -> None:
    (states,) = encode_rows(encoder, [request([], [2, 4, 3])], token_budget=1000)
    assert not states[0].any()
    np.testing.assert_allclose(states[1], alone(encoder, [2, 4, 3]), rtol=0, atol=1e-6)


def test_a_request_of_rows_without_tokens_is_all_zero(encoder: LoadedEncoder) -> None:
    (states,) = encode_rows(encoder, [request([], [], tokens=1)], token_budget=1000)
    assert states.tolist() == np.zeros((2, 1, HIDDEN_SIZE)).tolist()


def test_states_are_float32(encoder: LoadedEncoder) -> None:
    (states,) = encode_rows(encoder, [request([2, 3])], token_budget=1000)
    assert states.dtype == np.float32


def test_the_forward_pass_stays_within_the_token_budget(encoder: LoadedEncoder) -> None:
    seen: list[int] = []
    hook = encoder.module.register_forward_pre_hook(
        lambda _module, _args, named: seen.append(named["input_ids"].numel()), with_kwargs=True
    )
    with hook:
        encode_rows(encoder, [request(*ROWS)], token_budget=8)
    # lengths 6, 4, 3, 2, 1: 6 alone; 4 and 3 padded to 4; 2 and 1 padded to 2
    assert seen == [6, 8, 4]


def test_ids_within_the_vocabulary_pass() -> None:
    assert check_token_ids(request([0, 19], [5]), VOCAB_SIZE, max_length=2) is None


@pytest.mark.parametrize("token_id", [VOCAB_SIZE, -2])
def test_an_id_outside_the_vocabulary_is_refused_with_the_range_that_is_allowed(token_id: int) -> None:
    with pytest.raises(RequestError, match=rf"{token_id}.*expected 0 to 19"):
        check_token_ids(request([5, token_id]), VOCAB_SIZE, max_length=8)


def test_more_tokens_than_the_deployment_takes_are_refused() -> None:
    with pytest.raises(RequestError, match="input_ids has 3 tokens a row; this model takes 2"):
        check_token_ids(request([1, 2, 3]), VOCAB_SIZE, max_length=2)
