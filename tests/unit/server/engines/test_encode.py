# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.engines.encode`: every request gets its own texts' vectors back, as if it had come alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import BertConfig, BertModel

from flagtriton_server.engines.base import LoadedEncoder, Precision
from flagtriton_server.engines.encode import check_token_ids, encode, encode_pooled
from flagtriton_server.engines.pooling import Pooling, cls_pool, last_token_pool, mean_pool
from flagtriton_server.engines.torch_packed.attention import ATTENTION_NAME, register_attention
from flagtriton_server.errors import RequestError

HIDDEN_SIZE = 8
VOCAB_SIZE = 20
ROWS = [[2, 7, 9, 3], [2, 3], [2, 5, 6, 7, 8, 3], [11], [2, 4, 3]]
ROUNDING = 1e-5  # of sums in another order; different texts are 0.01 apart and more
FP32 = Precision("fp32", torch.float32, torch.float32)
BF16 = Precision("bf16", torch.bfloat16, torch.bfloat16)


def bert() -> BertModel:
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
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture(scope="module")
def plain() -> LoadedEncoder:
    """The model as transformers has it, on the padded path: what the others are held to."""
    return LoadedEncoder(bert(), torch.device("cpu"), FP32, VOCAB_SIZE, 0, HIDDEN_SIZE)


@pytest.fixture(scope="module")
def packed(plain: LoadedEncoder) -> LoadedEncoder:
    register_attention()
    module = bert()
    module.set_attn_implementation(ATTENTION_NAME)
    return replace(plain, module=module, packed=True)


@pytest.fixture(scope="module", params=["padded", "packed"])
def encoder(request: pytest.FixtureRequest, plain: LoadedEncoder, packed: LoadedEncoder) -> LoadedEncoder:
    return {"padded": plain, "packed": packed}[request.param]


@pytest.fixture
def alone(plain: LoadedEncoder) -> Callable[[list[int]], NDArray[np.float32]]:
    """The model's own answer, `[T, D]`, to one text without padding."""

    def answer(row: list[int]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return plain.module(input_ids=torch.tensor([row])).last_hidden_state[0].numpy()

    return answer


def ids(*rows: list[int], tokens: int | None = None) -> NDArray[np.int32]:
    """Return `[B, T]` ids, T as given or the longest row's."""
    filled = np.full((len(rows), tokens or max(map(len, rows))), -1, dtype=np.int32)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return filled


Alone = Callable[[list[int]], NDArray[np.float32]]


def vectors_of(states: torch.Tensor, rows: list[list[int]]) -> list[NDArray[np.float32]]:
    """Cut a request's `[B, R, D]`, its texts end to end, into `[T, D]` a text."""
    return [part.numpy() for part in states.flatten(0, 1)[: sum(map(len, rows))].split([len(row) for row in rows])]


def seen_by(encoder: LoadedEncoder, requests: list[NDArray[np.int32]], token_budget: int) -> list[tuple[int, ...]]:
    """Return the shape of the ids in every forward pass."""
    seen: list[tuple[int, ...]] = []
    hook = encoder.module.register_forward_pre_hook(
        lambda _module, _args, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    with hook:
        encode(encoder, requests, token_budget)
    return seen


def test_the_tests_model_tells_texts_apart(alone: Alone) -> None:
    firsts = [alone(row)[0] for row in ROWS]
    distances = [np.abs(a - b).max() for i, a in enumerate(firsts) for b in firsts[:i]]
    assert min(distances) > 0.01


def test_a_text_alone_and_in_company_agree(encoder: LoadedEncoder, alone: Alone) -> None:
    (together,) = encode(encoder, [ids(*ROWS)], token_budget=1000)
    for row, states in zip(ROWS, vectors_of(together, ROWS), strict=True):
        np.testing.assert_allclose(states, alone(row), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("token_budget", [1, 4, 7, 12, 1000])
def test_every_request_gets_its_own_texts_back_in_order(
    encoder: LoadedEncoder, alone: Alone, token_budget: int
) -> None:
    parts = [ROWS[:2], ROWS[2:3], ROWS[3:]]
    answers = encode(encoder, [ids(*part) for part in parts], token_budget)
    for part, states in zip(parts, answers, strict=True):
        for row, vectors in zip(part, vectors_of(states, part), strict=True):
            np.testing.assert_allclose(vectors, alone(row), rtol=0, atol=ROUNDING)


def test_a_request_has_just_the_rows_that_its_tokens_need(encoder: LoadedEncoder) -> None:
    answers = encode(encoder, [ids(*ROWS[:2]), ids(ROWS[2]), ids(*ROWS[3:])], token_budget=1000)
    # 4 + 2 tokens of 2 texts are 3 rows a text; 6 of one are 6; 1 + 3 of 2 are 2
    assert [answer.shape for answer in answers] == [(2, 3, 8), (1, 6, 8), (2, 2, 8)]


def test_rows_behind_a_requests_last_token_are_zero(encoder: LoadedEncoder) -> None:
    (states,) = encode(encoder, [ids([2, 3], [2, 4, 3])], token_budget=1000)
    # 5 tokens in 2 texts' rows: 3 rows each, and the sixth is left over
    assert states.shape == (2, 3, HIDDEN_SIZE)
    assert states.flatten(0, 1).any(dim=1).tolist() == [True, True, True, True, True, False]


def test_a_request_wider_than_its_texts_has_no_rows_for_the_rest(encoder: LoadedEncoder) -> None:
    (states,) = encode(encoder, [ids([2, 3], tokens=5)], token_budget=1000)
    assert states.shape == (1, 2, HIDDEN_SIZE)


def test_a_text_without_tokens_has_no_rows_beside_one_that_has_some(encoder: LoadedEncoder, alone: Alone) -> None:
    (states,) = encode(encoder, [ids([], [2, 4, 3])], token_budget=1000)
    assert states.shape == (2, 2, HIDDEN_SIZE)
    np.testing.assert_allclose(states.flatten(0, 1)[:3], alone([2, 4, 3]), rtol=0, atol=ROUNDING)


def test_a_request_of_texts_without_tokens_is_all_zero(encoder: LoadedEncoder) -> None:
    (states,) = encode(encoder, [ids([], [], tokens=1)], token_budget=1000)
    assert states.tolist() == np.zeros((2, 1, HIDDEN_SIZE)).tolist()


@pytest.mark.parametrize("precision", [FP32, BF16], ids=["fp32", "bf16"])
def test_states_are_in_the_dtype_that_the_encoder_computes_in(plain: LoadedEncoder, precision: Precision) -> None:
    encoder = replace(plain, module=bert().to(precision.computed), precision=precision)
    (states,) = encode(encoder, [ids([2, 3])], token_budget=1000)
    assert states.dtype == precision.computed


def test_a_padded_forward_pass_stays_within_the_token_budget(plain: LoadedEncoder) -> None:
    # lengths 6, 4, 3, 2, 1: 6 alone; 4 and 3 padded to 4; 2 and 1 padded to 2
    assert seen_by(plain, [ids(*ROWS)], token_budget=8) == [(1, 6), (2, 4), (2, 2)]


def test_a_packed_forward_pass_is_one_row_filled_up_to_a_length_that_comes_often(packed: LoadedEncoder) -> None:
    rows = [[2] * 16, [2] * 12, [2] * 5, [2] * 4]
    # budget 28: 16 + 12 are 28, filled up to 32; 5 + 4 are 9, filled up to 16
    assert seen_by(packed, [ids(*rows)], token_budget=28) == [(1, 32), (1, 16)]


@pytest.mark.parametrize("token_budget", [1, 7, 1000])
@pytest.mark.parametrize("pool", [cls_pool, mean_pool, last_token_pool])
def test_texts_pooled_in_the_encoder_are_each_texts_own(
    encoder: LoadedEncoder, alone: Alone, pool: Pooling, token_budget: int
) -> None:
    reduced = {cls_pool: lambda states: states[0], mean_pool: lambda s: s.mean(0), last_token_pool: lambda s: s[-1]}
    first, second = encode_pooled(encoder, [ids(*ROWS[:2]), ids(*ROWS[2:])], token_budget, pool)
    assert (first.shape, second.shape) == ((2, HIDDEN_SIZE), (3, HIDDEN_SIZE))
    for row, vector in zip(ROWS, [*first, *second], strict=True):
        np.testing.assert_allclose(vector, reduced[pool](alone(row)), rtol=0, atol=ROUNDING)


def test_a_text_without_tokens_is_pooled_to_zero_in_its_own_place(encoder: LoadedEncoder, alone: Alone) -> None:
    (vectors,) = encode_pooled(encoder, [ids([2, 3], [], [2, 4, 3])], 1000, cls_pool)
    assert not vectors[1].any()
    for vector, row in ((vectors[0], [2, 3]), (vectors[2], [2, 4, 3])):
        np.testing.assert_allclose(vector, alone(row)[0], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("pool", "dtype"), [(cls_pool, torch.bfloat16), (last_token_pool, torch.bfloat16), (mean_pool, torch.float32)]
)
def test_only_a_mean_is_wider_than_the_encoder_computes_in(
    plain: LoadedEncoder, pool: Pooling, dtype: torch.dtype
) -> None:
    encoder = replace(plain, module=bert().to(torch.bfloat16), precision=BF16)
    (vectors,) = encode_pooled(encoder, [ids([2, 3])], 1000, pool)
    assert vectors.dtype == dtype


def test_ids_within_the_vocabulary_pass() -> None:
    assert check_token_ids(ids([0, 19], [5]), VOCAB_SIZE, max_length=2) is None


@pytest.mark.parametrize("token_id", [VOCAB_SIZE, -2])
def test_an_id_outside_the_vocabulary_is_refused_with_the_range_that_is_allowed(token_id: int) -> None:
    with pytest.raises(RequestError, match=rf"{token_id}.*expected 0 to 19"):
        check_token_ids(ids([5, token_id]), VOCAB_SIZE, max_length=8)


def test_more_tokens_than_the_deployment_takes_are_refused() -> None:
    with pytest.raises(RequestError, match="input_ids has 3 tokens a row; this model takes 2"):
        check_token_ids(ids([1, 2, 3]), VOCAB_SIZE, max_length=2)


@pytest.mark.parametrize("row", [[2, -1, 3], [-1, 3]])
def test_a_gap_between_tokens_is_refused(row: list[int]) -> None:
    with pytest.raises(RequestError, match="input_ids has -1 between tokens"):
        check_token_ids(ids(row), VOCAB_SIZE, max_length=8)
