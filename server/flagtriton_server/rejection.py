# SPDX-License-Identifier: Apache-2.0
"""The error that fails one request, and how it fails nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["RequestError", "one_by_one"]

T = TypeVar("T")
R = TypeVar("R")


class RequestError(ValueError):
    """One request cannot be answered.

    Attributes:
        code: the name of a Triton error code: `INVALID_ARG`, `CANCELLED`, …
    """

    def __init__(self, message: str, code: str = "INVALID_ARG") -> None:
        super().__init__(message)
        self.code = code


def one_by_one(answer: Callable[[T], R | RequestError], work: Iterable[T]) -> list[R | RequestError]:
    """Return the answer to each request, or the error that it alone gets.

    Args:
        answer: to one request; may raise `RequestError`, and what torch raises for shapes that do not go together, as
            they may come from whoever calls a private step directly.
        work: the requests.
    """
    answers: list[R | RequestError] = []
    for item in work:
        try:
            answers.append(answer(item))
        except RequestError as error:
            answers.append(error)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            answers.append(RequestError(f"this step cannot work on the tensors that came: {reason}", "INTERNAL"))
    return answers
