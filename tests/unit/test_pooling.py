# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.pooling`: one vector a text, by numbers that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from flagtriton_server.pooling import POOLING_METHODS, cls_pool, last_token_pool, mean_pool, to_embedding

HIDDEN_STATES = torch.tensor(
    [
        [[1.0, 2.0], [3.0, 4.0], [8.0, 6.0]],
        [[5.0, 0.0], [7.0, 2.0], [9.0, 1.0]],
    ]
)  # [B=2, T=3, D=2]
ALL = torch.tensor([[True, True, True], [True, True, True]])
RIGHT_PADDED = torch.tensor([[True, True, False], [True, False, False]])
LEFT_PADDED = torch.tensor([[False, True, True], [False, False, True]])
SECOND_EMPTY = torch.tensor([[True, True, False], [False, False, False]])


def test_cls_is_the_first_token() -> None:
    assert cls_pool(HIDDEN_STATES, ALL).tolist() == [[1, 2], [5, 0]]


def test_cls_is_the_first_token_before_right_padding() -> None:
    assert cls_pool(HIDDEN_STATES, RIGHT_PADDED).tolist() == [[1, 2], [5, 0]]


def test_cls_is_the_first_token_behind_left_padding() -> None:
    assert cls_pool(HIDDEN_STATES, LEFT_PADDED).tolist() == [[3, 4], [9, 1]]


def test_last_token_is_the_last() -> None:
    assert last_token_pool(HIDDEN_STATES, ALL).tolist() == [[8, 6], [9, 1]]


def test_last_token_is_the_last_before_right_padding() -> None:
    assert last_token_pool(HIDDEN_STATES, RIGHT_PADDED).tolist() == [[3, 4], [5, 0]]


def test_last_token_is_the_last_behind_left_padding() -> None:
    assert last_token_pool(HIDDEN_STATES, LEFT_PADDED).tolist() == [[8, 6], [9, 1]]


def test_mean_is_over_all_tokens() -> None:
    # (1 + 3 + 8) / 3 = 4, (2 + 4 + 6) / 3 = 4; (5 + 7 + 9) / 3 = 7, (0 + 2 + 1) / 3 = 1
    assert mean_pool(HIDDEN_STATES, ALL).tolist() == [[4, 4], [7, 1]]


def test_mean_leaves_right_padding_out() -> None:
    # (1 + 3) / 2 = 2, (2 + 4) / 2 = 3; the second text has one token
    assert mean_pool(HIDDEN_STATES, RIGHT_PADDED).tolist() == [[2, 3], [5, 0]]


def test_mean_leaves_left_padding_out() -> None:
    # (3 + 8) / 2 = 5.5, (4 + 6) / 2 = 5
    assert mean_pool(HIDDEN_STATES, LEFT_PADDED).tolist() == [[5.5, 5], [9, 1]]


@pytest.mark.parametrize(("method", "first"), [("cls", [1, 2]), ("mean", [2, 3]), ("last_token", [3, 4])])
def test_a_text_without_tokens_is_zero_and_leaves_its_neighbour_alone(method: str, first: list[float]) -> None:
    assert POOLING_METHODS[method](HIDDEN_STATES, SECOND_EMPTY).tolist() == [first, [0, 0]]


def test_the_methods_go_by_flagembeddings_names() -> None:
    assert list(POOLING_METHODS.items()) == [("cls", cls_pool), ("mean", mean_pool), ("last_token", last_token_pool)]


def test_an_embedding_is_a_unit_vector() -> None:
    assert to_embedding(torch.tensor([[3.0, 4.0]]), truncate_dim=None, normalize=True).tolist() == [
        pytest.approx([0.6, 0.8])
    ]


def test_without_normalising_a_vector_stays_as_it_is() -> None:
    assert to_embedding(torch.tensor([[3.0, 4.0]]), truncate_dim=None, normalize=False).tolist() == [[3, 4]]


def test_vectors_are_cut_before_they_are_normalised() -> None:
    # 3-4-12-13: normalised first, the two kept would be 3/13 and 4/13
    vectors = torch.tensor([[3.0, 4.0, 12.0]])
    assert to_embedding(vectors, truncate_dim=2, normalize=True).tolist() == [pytest.approx([0.6, 0.8])]


def test_vectors_are_cut_without_normalising_too() -> None:
    assert to_embedding(torch.tensor([[3.0, 4.0, 12.0]]), truncate_dim=2, normalize=False).tolist() == [[3, 4]]


@pytest.mark.parametrize("truncate_dim", [2, 3])
def test_a_cut_at_or_beyond_the_end_keeps_all(truncate_dim: int) -> None:
    vectors = torch.tensor([[3.0, 4.0]])
    assert to_embedding(vectors, truncate_dim=truncate_dim, normalize=False).tolist() == [[3, 4]]


def test_a_zero_vector_stays_zero() -> None:
    assert to_embedding(torch.zeros(1, 2), truncate_dim=None, normalize=True).tolist() == [[0, 0]]
