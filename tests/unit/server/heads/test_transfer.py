# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.heads.transfer`: vectors cross as bytes and come back to the bit, or are refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flagtriton_server.errors import RequestError
from flagtriton_server.heads.transfer import from_bytes, to_bytes

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def sent(texts: int, rows: int, width: int) -> NDArray[np.uint8]:
    """Return bytes `[B, R, width]`, all zero."""
    return np.zeros((texts, rows, width), dtype=np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_come_back_to_the_bit_in_their_own_dtype(dtype: torch.dtype) -> None:
    states = torch.tensor([[[1.0, 1 / 3], [-2.5, 0.0]], [[1e-3, -0.0], [300.0, 7.0]]], dtype=dtype)  # [B=2, R=2, D=2]
    back = from_bytes(to_bytes(states), np.array([1, 3]), dtype)
    assert back.dtype == dtype
    assert torch.equal(back.view(torch.uint8), states.flatten(0, 1).view(torch.uint8))


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 12), (torch.bfloat16, 6), (torch.float16, 6)])
def test_a_component_is_as_many_bytes_as_its_dtype_has(dtype: torch.dtype, width: int) -> None:
    crossing = to_bytes(torch.zeros(2, 5, 3, dtype=dtype))
    assert (crossing.dtype, crossing.shape) == (np.uint8, (2, 5, width))


def test_bytes_are_the_processors_own_order_of_a_components() -> None:
    assert to_bytes(torch.tensor([[[1.0]]])).tobytes() == np.float32(1).tobytes()


def test_bytes_share_the_vectors_memory() -> None:
    states = torch.zeros(1, 1, 1)
    crossing = to_bytes(states)
    states[0, 0, 0] = 1
    assert crossing.tobytes() == np.float32(1).tobytes()


def test_vectors_that_do_not_lie_in_a_row_are_put_in_one() -> None:
    turned = torch.arange(6.0).view(1, 2, 3).transpose(1, 2)  # [1, 3, 2]
    back = from_bytes(to_bytes(turned), np.array([3]), torch.float32)
    assert back.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_vectors_made_for_inference_alone_can_be_sent() -> None:
    with torch.inference_mode():
        states = torch.ones(1, 1, 2)
    assert to_bytes(states).shape == (1, 1, 8)


def test_what_lies_behind_the_texts_rows_is_left_out() -> None:
    states = torch.arange(8.0).view(2, 2, 2)
    assert from_bytes(to_bytes(states), np.array([2, 1]), torch.float32).tolist() == [[0, 1], [2, 3], [4, 5]]


def test_texts_without_tokens_have_no_rows() -> None:
    assert from_bytes(sent(2, 1, 8), np.array([0, 0]), torch.float32).shape == (0, 2)


def test_texts_may_fill_their_rows_exactly() -> None:
    assert from_bytes(sent(2, 3, 8), np.array([5, 1]), torch.float32).shape == (6, 2)


@pytest.mark.parametrize(
    ("array", "lengths", "dtype", "sentence"),
    [
        (
            sent(2, 2, 8),
            [4, 1],
            torch.float32,
            "hidden_states is [2, 2, 8] bytes for 5 rows of 2 texts; "
            "expected [B, R, 4 * D] with B times R at least the rows",
        ),
        (sent(1, 2, 8), [1, 1], torch.float32, "[1, 2, 8] bytes for 2 rows of 2 texts"),
        (sent(3, 2, 8), [1, 1], torch.float32, "[3, 2, 8] bytes for 2 rows of 2 texts"),
        (sent(1, 1, 10), [1], torch.float32, "[1, 1, 10] bytes for 1 rows of 1 texts; expected [B, R, 4 * D]"),
        (sent(1, 1, 9), [1], torch.bfloat16, "[1, 1, 9] bytes for 1 rows of 1 texts; expected [B, R, 2 * D]"),
        (sent(1, 1, 0), [1], torch.float32, "[1, 1, 0] bytes"),
        (sent(1, 0, 8), [0], torch.float32, "[1, 0, 8] bytes"),
    ],
    ids=[
        "too few rows",
        "too few texts",
        "too many texts",
        "half a float32",
        "half a bfloat16",
        "no component",
        "no row",
    ],
)
def test_a_shape_that_does_not_hold_the_rows_is_refused_with_both_sides(
    array: NDArray[np.uint8], lengths: list[int], dtype: torch.dtype, sentence: str
) -> None:
    with pytest.raises(RequestError, match=re.escape(sentence)):
        from_bytes(array, np.array(lengths), dtype)
