# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.engines.pooling`: one vector a text, by numbers that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton_server.engines.pooling import (
    POOLING_METHODS,
    ROW_CHOICES,
    Pooling,
    cls_pool,
    last_token_pool,
    max_pool,
    mean_pool,
    mean_sqrt_len_pool,
    pooling_named,
    to_embedding,
    truncate_and_normalize,
    weighted_mean_pool,
)
from flagtriton_server.errors import NotFiniteError

STATES = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 6.0], [5.0, 0.0], [7.0, 2.0]])  # [N=5, D=2]
THREE_AND_TWO = torch.tensor([3, 2])  # [B=2]
UNIT = EmbedOptions()
RAW = EmbedOptions(normalize=False)


def pooled(pool: Pooling, lengths: list[int], states: torch.Tensor = STATES) -> list[list[float]]:
    return pool(states, torch.tensor(lengths)).tolist()


def test_cls_is_each_texts_first_token() -> None:
    assert pooled(cls_pool, [3, 2]) == [[1, 2], [5, 0]]


def test_last_token_is_each_texts_last() -> None:
    assert pooled(last_token_pool, [3, 2]) == [[8, 6], [7, 2]]


def test_mean_is_over_each_texts_own_tokens() -> None:
    # (1 + 3 + 8) / 3 = 4, (2 + 4 + 6) / 3 = 4; (5 + 7) / 2 = 6, (0 + 2) / 2 = 1
    assert pooled(mean_pool, [3, 2]) == [[4, 4], [6, 1]]


@pytest.mark.parametrize("method", POOLING_METHODS)
def test_a_text_of_one_token_is_that_token(method: str) -> None:
    assert pooled(POOLING_METHODS[method], [1, 1, 1, 1, 1]) == STATES.tolist()


@pytest.mark.parametrize(("method", "second"), [("cls", [3, 4]), ("mean", [5.75, 3]), ("last_token", [7, 2])])
def test_where_the_texts_begin_is_the_lengths_to_say(method: str, second: list[float]) -> None:
    # mean: (3 + 8 + 5 + 7) / 4 = 5.75, (4 + 6 + 0 + 2) / 4 = 3
    assert pooled(POOLING_METHODS[method], [1, 4]) == [[1, 2], second]


@pytest.mark.parametrize("lengths", [[0, 3, 2], [3, 0, 2], [3, 2, 0]], ids=["first", "between", "last"])
@pytest.mark.parametrize("method", POOLING_METHODS)
def test_a_text_without_tokens_is_zero_and_leaves_its_neighbours_alone(method: str, lengths: list[int]) -> None:
    pool = POOLING_METHODS[method]
    vectors = pooled(pool, lengths)
    assert vectors.pop(lengths.index(0)) == [0, 0]
    assert vectors == pooled(pool, [3, 2])


@pytest.mark.parametrize("method", POOLING_METHODS)
def test_texts_without_any_token_among_them_are_zero(method: str) -> None:
    assert pooled(POOLING_METHODS[method], [0, 0], torch.empty(0, 2)) == [[0, 0], [0, 0]]


def test_a_mean_of_bfloat16_vectors_is_summed_in_float32() -> None:
    # bfloat16 has 8 bits: 256 + 1 would stay 256, and the sum of the 256 ones behind it would be lost
    states = torch.tensor([[256.0]] + [[1.0]] * 255, dtype=torch.bfloat16)
    vector = mean_pool(states, torch.tensor([256]))
    assert vector.dtype == torch.float32
    assert vector.tolist() == [[(256 + 255) / 256]]


@pytest.mark.parametrize("method", ["cls", "last_token"])
def test_a_vector_that_is_only_picked_keeps_its_dtype(method: str) -> None:
    assert POOLING_METHODS[method](STATES.bfloat16(), THREE_AND_TWO).dtype == torch.bfloat16


def test_the_methods_go_by_flagembeddings_names() -> None:
    first = list(POOLING_METHODS.items())[:3]
    assert first == [("cls", cls_pool), ("mean", mean_pool), ("last_token", last_token_pool)]


@pytest.mark.parametrize(("method", "pool"), POOLING_METHODS.items())
def test_a_method_is_found_by_its_name(method: str, pool: Pooling) -> None:
    assert pooling_named(method) is pool


def test_a_method_that_is_not_known_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="pooling_method is 'median'; expected one of cls, mean, last_token"):
        pooling_named("median")


def test_the_rows_that_leave_the_encoder_are_all_or_the_one_that_pooling_picks() -> None:
    assert {"all": None, "first": cls_pool, "last": last_token_pool} == ROW_CHOICES


def test_an_embedding_is_a_unit_vector() -> None:
    assert to_embedding(torch.tensor([[3.0, 4.0]]), UNIT).tolist() == [pytest.approx([0.6, 0.8])]


def test_without_normalising_a_vector_stays_as_it_is() -> None:
    assert to_embedding(torch.tensor([[3.0, 4.0]]), RAW).tolist() == [[3, 4]]


def test_vectors_are_cut_before_they_are_normalised() -> None:
    # 3-4-12-13: normalised first, the two kept would be 3/13 and 4/13
    vectors = torch.tensor([[3.0, 4.0, 12.0]])
    assert to_embedding(vectors, EmbedOptions(truncate_dim=2)).tolist() == [pytest.approx([0.6, 0.8])]


def test_vectors_are_cut_without_normalising_too() -> None:
    options = EmbedOptions(truncate_dim=2, normalize=False)
    assert to_embedding(torch.tensor([[3.0, 4.0, 12.0]]), options).tolist() == [[3, 4]]


@pytest.mark.parametrize("truncate_dim", [2, 3])
def test_a_cut_at_or_beyond_the_end_keeps_all(truncate_dim: int) -> None:
    options = EmbedOptions(truncate_dim=truncate_dim, normalize=False)
    assert to_embedding(torch.tensor([[3.0, 4.0]]), options).tolist() == [[3, 4]]


def test_a_zero_vector_stays_zero() -> None:
    assert to_embedding(torch.zeros(1, 2), UNIT).tolist() == [[0, 0]]


@pytest.mark.parametrize("options", [UNIT, RAW], ids=["normalised", "raw"])
def test_an_embedding_of_a_bfloat16_vector_is_float32(options: EmbedOptions) -> None:
    assert to_embedding(torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16), options).dtype == "float32"


def test_a_bfloat16_vector_is_normalised_in_float32() -> None:
    # 0.6 in bfloat16 is 0.6016; in float32 it is within 1e-7
    vectors = torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16)
    assert to_embedding(vectors, UNIT).tolist() == [pytest.approx([0.6, 0.8], abs=1e-7)]


BEYOND_NUMBERS = torch.tensor([[torch.nan, torch.inf, -torch.inf, 2.0]])


def test_a_pseudo_moe_model_gets_numbers_for_what_is_none() -> None:
    assert truncate_and_normalize(BEYOND_NUMBERS, RAW, pseudo_moe=True).tolist() == [[0, 10_000, -10_000, 2]]


def test_in_bfloat16_they_are_the_nearest_it_has() -> None:
    # of 8 bits: 10,000 is between 156 and 157 times 64, and 156 * 64 is 9,984
    vectors = truncate_and_normalize(BEYOND_NUMBERS.bfloat16(), RAW, pseudo_moe=True)
    assert vectors.dtype == torch.float32
    assert vectors.tolist() == [[0, 9_984, -9_984, 2]]


@pytest.mark.parametrize("options", [UNIT, RAW], ids=["normalised", "raw"])
def test_other_models_vectors_of_what_is_no_number_are_refused(options: EmbedOptions) -> None:
    with pytest.raises(NotFiniteError, match=r"^components of vectors are not finite$"):
        truncate_and_normalize(BEYOND_NUMBERS, options)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e30])
def test_a_component_that_normalising_would_make_0_of_others_is_refused(value: float) -> None:
    # of 1 over an infinity comes 0; the square of 1e30 is beyond float32
    with pytest.raises(NotFiniteError):
        truncate_and_normalize(torch.tensor([[1.0, 0.0], [1.0, value]]), UNIT)


def test_a_component_that_is_cut_off_need_not_be_finite() -> None:
    assert truncate_and_normalize(torch.tensor([[3.0, 4.0, torch.nan]]), EmbedOptions(truncate_dim=2)).tolist() == [
        pytest.approx([0.6, 0.8])
    ]


def test_great_numbers_that_are_finite_are_left_to_pseudo_moe_models() -> None:
    assert truncate_and_normalize(torch.tensor([[3e4, -3e4]]), RAW, pseudo_moe=True).tolist() == [[3e4, -3e4]]


def test_numbers_are_put_in_before_normalising() -> None:
    # of nan, inf and 0 comes 0, 10,000 and 0, which is a unit vector
    numbers = torch.tensor([[torch.nan, torch.inf, 0]])
    assert truncate_and_normalize(numbers, UNIT, pseudo_moe=True).tolist() == [[0, 1, 0]]


def test_what_is_cut_off_is_not_minded() -> None:
    options = EmbedOptions(truncate_dim=2)
    vectors = truncate_and_normalize(torch.tensor([[3.0, 4.0, torch.inf]]), options, pseudo_moe=True)
    assert vectors.tolist() == [pytest.approx([0.6, 0.8])]


@pytest.mark.parametrize("pseudo_moe", [False, True])
def test_an_embedding_is_the_finished_vector_as_an_array(pseudo_moe: bool) -> None:
    vectors = torch.tensor([[torch.inf if pseudo_moe else 1e5, 1.0]])
    assert to_embedding(vectors, RAW, pseudo_moe=pseudo_moe).tolist() == [[1e4 if pseudo_moe else 1e5, 1.0]]


def test_max_is_each_components_greatest() -> None:
    assert pooled(max_pool, [3, 2]) == [[8, 6], [7, 2]]
    assert pooled(max_pool, [2, 3], -STATES) == [[-1, -2], [-5, 0]]


def test_mean_sqrt_len_divides_by_the_root_of_the_number() -> None:
    # four tokens: (1 + 3 + 8 + 5) / 2, (2 + 4 + 6 + 0) / 2
    assert pooled(mean_sqrt_len_pool, [4, 1]) == [[8.5, 6], [7, 2]]


def test_weighted_mean_weighs_by_the_place() -> None:
    # 1 + 6 + 24 and 2 + 8 + 18, of weights 1 + 2 + 3; then 5 + 14 and 0 + 4, of weights 1 + 2
    assert pooled(weighted_mean_pool, [3, 2]) == [pytest.approx([31 / 6, 28 / 6]), pytest.approx([19 / 3, 4 / 3])]


def test_joined_poolings_lie_one_behind_the_other_in_their_order() -> None:
    assert pooled(pooling_named("last_token+cls+mean"), [3, 2]) == [[8, 6, 1, 2, 4, 4], [7, 2, 5, 0, 6, 1]]


def test_joined_poolings_of_no_text_have_their_width() -> None:
    pool = pooling_named("cls+mean")
    assert pool(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)).shape == (0, 4)


@pytest.mark.parametrize(
    ("method", "first"),
    [
        ("cls", [3, 4]),
        ("mean", [5.5, 5]),
        ("max", [8, 6]),
        ("mean_sqrt_len", [11 / 2**0.5, 10 / 2**0.5]),
        ("weightedmean", [(2 * 3 + 3 * 8) / 5, (2 * 4 + 3 * 6) / 5]),  # the places stay what they were
        ("last_token", [8, 6]),
    ],
)
def test_a_prompts_tokens_are_left_out(method: str, first: list[float]) -> None:
    vectors = POOLING_METHODS[method](STATES, THREE_AND_TWO, torch.tensor([1, 0])).tolist()
    assert vectors == [pytest.approx(first), pooled(POOLING_METHODS[method], [3, 2])[1]]


@pytest.mark.parametrize("method", POOLING_METHODS)
def test_a_text_whose_prompt_takes_all_its_tokens_is_finite(method: str) -> None:
    vectors = POOLING_METHODS[method](STATES, THREE_AND_TWO, torch.tensor([3, 9])).tolist()
    # sentence-transformers' cls falls back on the first token
    assert vectors == ([[1, 2], [5, 0]] if method == "cls" else [[0, 0], [0, 0]])
