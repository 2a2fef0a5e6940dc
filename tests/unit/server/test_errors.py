# SPDX-License-Identifier: Apache-2.0
"""A request that cannot be worked on gets an error, and those beside it their answers."""

from __future__ import annotations

import pytest
import torch

from flagtriton_server.errors import RequestError, one_by_one


def product(width: int) -> list[float]:
    if width < 0:
        raise RequestError("no width is below 0")
    return (torch.ones(2, width) @ torch.ones(3, 1)).flatten().tolist()


def test_tensors_that_do_not_go_together_fail_their_own_request_alone() -> None:
    first, second, third = one_by_one(product, [3, 4, 3])
    assert first == third == [3.0, 3.0]
    assert isinstance(second, RequestError)
    assert second.code == "INTERNAL"
    assert "cannot work on the tensors that came: mat1 and mat2 shapes cannot be multiplied" in str(second)


def test_a_refusal_is_that_requests_answer() -> None:
    refused, answer = one_by_one(product, [-1, 3])
    assert (str(refused), answer) == ("no width is below 0", [3.0, 3.0])


def test_any_other_error_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        one_by_one(lambda number: 1 // number, [0])
