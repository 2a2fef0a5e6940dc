# SPDX-License-Identifier: Apache-2.0
"""The error that fails one request and nothing beside it."""

from __future__ import annotations

__all__ = ["RequestError"]


class RequestError(ValueError):
    """One request cannot be answered.

    Attributes:
        code: the name of a Triton error code: `INVALID_ARG`, `CANCELLED`, …
    """

    def __init__(self, message: str, code: str = "INVALID_ARG") -> None:
        super().__init__(message)
        self.code = code
