# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.heads.colbert`: a vector for every token but a text's first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton_server.engines.torch_packed.fused_bert import FusedLinear
from flagtriton_server.errors import RequestError
from flagtriton_server.heads import colbert
from flagtriton_server.heads.colbert import colbert_lengths, colbert_vectors, padded_vectors
from flagtriton_server.heads.linear import Head

FP32, FP16 = np.dtype(np.float32), np.dtype(np.float16)
RAW = EmbedOptions(normalize=False)


def counts(*tokens: int) -> np.ndarray[Any, Any]:
    return np.array(tokens, dtype=np.int64)


def head(weight: list[list[float]], bias: list[float]) -> Head:
    linear = nn.Linear(len(weight[0]), len(weight))
    linear.weight.data, linear.bias.data = torch.tensor(weight), torch.tensor(bias)
    return Head(FusedLinear([linear]), torch.device("cpu"), torch.float32)


IDENTITY = head([[1.0, 0], [0, 1]], [0.0, 0])


def vectors(states: list[list[float]], tokens: list[int], options: EmbedOptions = RAW) -> list[list[float]]:
    return colbert_vectors(torch.tensor(states).reshape(-1, 2), counts(*tokens), IDENTITY, options).tolist()


def test_a_text_has_one_vector_fewer_than_tokens() -> None:
    assert colbert_lengths(counts(5, 2, 1)).tolist() == [4, 1, 0]


def test_a_text_without_tokens_has_no_vector() -> None:
    assert colbert_lengths(counts(3, 0)).tolist() == [2, 0]


def test_a_vector_is_the_heads_product_and_bias() -> None:
    three = head([[1.0, 2], [3, 4], [0, -1]], [10.0, 20, 30])
    # of the second token alone: 1 + 2 + 10, 3 + 4 + 20, -1 + 30
    assert colbert_vectors(torch.tensor([[9.0, 9], [1, 1]]), counts(2), three, RAW).tolist() == [[13, 27, 29]]


def test_the_first_token_is_dropped_and_the_last_kept() -> None:
    assert vectors([[1, 1], [2, 2], [3, 3]], [3]) == [[2, 2], [3, 3]]


def test_every_texts_own_first_token_is_dropped() -> None:
    states = [[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, 6]]
    assert vectors(states, [3, 1, 2]) == [[2, 2], [3, 3], [6, 6]]


@pytest.mark.parametrize("tokens", [[0, 2, 2], [2, 0, 2], [2, 2, 0]], ids=["first", "between", "last"])
def test_a_text_without_tokens_takes_no_neighbours_token(tokens: list[int]) -> None:
    assert vectors([[1, 1], [2, 2], [3, 3], [4, 4]], tokens) == [[2, 2], [4, 4]]


def test_texts_of_one_token_have_no_vectors_at_all() -> None:
    assert colbert_vectors(torch.ones(2, 2), counts(1, 1), IDENTITY, RAW).shape == (0, 2)


def test_vectors_are_of_unit_length_unless_told() -> None:
    assert vectors([[9, 9], [3, 4]], [2], EmbedOptions()) == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert vectors([[9, 9], [3, 4]], [2], RAW) == [[3, 4]]


def test_vectors_are_cut_before_they_are_normalised() -> None:
    assert vectors([[9, 9], [3, 4]], [2], EmbedOptions(truncate_dim=1)) == [[1]]


def test_vectors_of_a_lower_precision_come_as_float32() -> None:
    linear = nn.Linear(2, 2).to(torch.bfloat16)
    low = Head(FusedLinear([linear]), torch.device("cpu"), torch.bfloat16)
    assert colbert_vectors(torch.ones(2, 2), counts(2), low, RAW).dtype == torch.float32


def padded(rows: list[list[float]], lengths: list[int], dtype: np.dtype[Any] = FP32) -> np.ndarray[Any, Any]:
    return padded_vectors(np.array(rows, dtype=np.float32).reshape(-1, 2), counts(*lengths), dtype)


def test_shorter_texts_are_filled_up_with_zeros() -> None:
    assert padded([[1, 2], [3, 4], [5, 6]], [1, 2]).tolist() == [[[1, 2], [0, 0]], [[3, 4], [5, 6]]]


def test_a_text_without_vectors_is_all_zeros() -> None:
    assert padded([[1, 2]], [0, 1]).tolist() == [[[0, 0]], [[1, 2]]]


def test_texts_without_any_vector_still_have_a_row() -> None:
    assert padded([], [0, 0]).tolist() == [[[0, 0]], [[0, 0]]]


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
def test_vectors_are_given_in_the_dtype_they_travel_in(dtype: np.dtype[Any]) -> None:
    # Beside 1, fp16's next number is 1 + 2**-10: 2**-12 is lost in it and kept in float32
    found = padded([[1 + 2**-12, 0]], [1], dtype)
    assert found.dtype == dtype
    assert (found[0, 0, 0] == 1) == (dtype == FP16)


@pytest.mark.parametrize(("dtype", "most"), [(FP32, 47), (FP16, 23)], ids=str)
def test_what_just_fits_one_reply_is_given(monkeypatch: pytest.MonkeyPatch, dtype: np.dtype[Any], most: int) -> None:
    # 2 texts, 3 vectors of the longer one, 2 components: 12 numbers of 4 or 2 bytes
    rows, lengths = [[1, 2]] * 4, [1, 3]
    monkeypatch.setattr(colbert, "_MOST_BYTES", most + 1)
    assert padded(rows, lengths, dtype).shape == (2, 3, 2)
    monkeypatch.setattr(colbert, "_MOST_BYTES", most)
    with pytest.raises(RequestError, match=rf"colbert_vecs would be \[2, 3, 2\] {dtype}"):
        padded(rows, lengths, dtype)


def test_a_reply_beyond_two_gigabytes_is_refused_before_it_is_made() -> None:
    # 2,100 texts, of which one has 8,192 vectors of 32 float32: 2,100 * 8,192 * 32 * 4 bytes are 2,100 MiB
    lengths = counts(8192, *[0] * 2099)
    sentence = "colbert_vecs would be .*, 2100 MiB; one reply holds 2047: send fewer texts in a request, .* max_length"
    with pytest.raises(RequestError, match=sentence):
        padded_vectors(np.zeros((8192, 32), np.float32), lengths, FP32)
