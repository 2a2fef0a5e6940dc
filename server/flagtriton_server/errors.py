# SPDX-License-Identifier: Apache-2.0
"""Errors that fail one request, and a loop that keeps them from failing the other requests of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["NotFiniteError", "RequestError", "not_finite", "one_by_one"]

T = TypeVar("T")
R = TypeVar("R")


class RequestError(ValueError):
    """One request cannot be answered.

    Attributes:
        code: name of a Triton error code: `INVALID_ARG`, `CANCELLED`, …
    """

    def __init__(self, message: str, code: str = "INVALID_ARG") -> None:
        super().__init__(message)
        self.code = code


class NotFiniteError(ArithmeticError):
    """A result contains nan or an infinity. Such a result is never sent.

    Attributes:
        what: plural noun phrase for the values, such as `scores`.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} are not finite")
        self.what = what


_WIDER = {"fp16": "add it with --precision bf16 or fp32", "bf16": "add it with --precision fp32"}


def not_finite(what: str, precision: str) -> str:
    """Return the error message for values that are not finite in a precision, with advice."""
    advice = _WIDER.get(precision, "no precision is wider: check the checkpoint's weights")
    return f"{what} are not finite in {precision}; {advice}"


def one_by_one(
    answer: Callable[[T], R | RequestError], work: Iterable[T], precision: str = "fp32"
) -> list[R | RequestError]:
    """Return one answer for each request; a request that fails gets its own error in place of an answer.

    Args:
        answer: computes the answer to one request. It may raise `RequestError` or `NotFiniteError`. It may also raise
            torch's `RuntimeError` for shapes that do not match: a client may call a private step directly.
        work: the requests.
        precision: precision of the deployment: `fp32`, `fp16` or `bf16`.
    """
    answers: list[R | RequestError] = []
    for item in work:
        try:
            answers.append(answer(item))
        except RequestError as error:
            answers.append(error)
        except NotFiniteError as error:
            answers.append(RequestError(not_finite(error.what, precision), "INTERNAL"))
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            answers.append(RequestError(f"this step cannot work on the tensors that came: {reason}", "INTERNAL"))
    return answers
