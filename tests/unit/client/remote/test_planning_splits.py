# SPDX-License-Identifier: Apache-2.0
"""Requests that are too large together, and the caller's index of one that is too large alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from flagtriton.errors import InvalidRequestError, RequestTooLargeError
from flagtriton.protocol.text import text_tensor
from flagtriton.remote.planning import send_or_split
from flagtriton.transport.base import InferenceReply

ROWS = np.array([7, 2, 9, 4, 1])


def test_a_request_is_halved_until_its_parts_pass() -> None:
    tried: list[int] = []

    def send(tensors: Mapping[str, Any]) -> InferenceReply:
        tried.append(len(tensors["text"]))
        if len(tensors["text"]) > 2:
            raise RequestTooLargeError("HTTP 413")
        return {"first": tensors["text"]}

    parts = send_or_split(ROWS, {"text": text_tensor(list("abcde"))}, send, "text")
    assert tried == [5, 2, 3, 1, 2]
    assert [(rows.tolist(), [row[0] for row in reply["first"]]) for rows, reply in parts] == [
        ([7, 2], [b"a", b"b"]),
        ([9], [b"c"]),
        ([4, 1], [b"d", b"e"]),
    ]


def test_a_row_that_is_too_large_alone_is_named_with_its_size_and_a_remedy() -> None:
    def send(tensors: Mapping[str, Any]) -> InferenceReply:
        if sum(len(row[0]) for row in tensors["text"]) > 10:
            raise RequestTooLargeError("HTTP 413")
        return {}

    texts = ["a", "b", "c" * 2_000, "d", "e"]
    with pytest.raises(
        RequestTooLargeError, match=r"^text 9 of 2,000 bytes is too large .*client_max_body_size"
    ) as told:
        send_or_split(ROWS, {"text": text_tensor(texts)}, send, "text")
    assert told.value.index == 9


def test_another_refusal_is_not_sent_again() -> None:
    tried = []

    def send(tensors: Mapping[str, Any]) -> InferenceReply:
        tried.append(tensors)
        error = InvalidRequestError("m: text 3 is bad")
        error.said = "text 3 is bad"
        raise error

    with pytest.raises(InvalidRequestError, match=r"^m: text 4 is bad$"):
        send_or_split(ROWS, {"text": text_tensor(list("abcde"))}, send, "text")
    assert len(tried) == 1
