# SPDX-License-Identifier: Apache-2.0
"""Texts into an embedder and vectors out of it, in front of a fake server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flagtriton import InvalidRequestError, RequestTimeoutError, ServerUnavailableError
from tests.support.fake_models import DIMENSION, METHODS, embedder, failing_first, fake_server, texts_of, vector

LONE_SURROGATE = "\ud83d"


# Shapes, order, and what comes in.


@pytest.mark.parametrize("method", METHODS)
def test_a_str_gives_one_vector(method: str) -> None:
    vectors = getattr(embedder(fake_server()), method)("ab")
    # Two bytes, a = 97, b = 98, and 97 + 98.
    assert vectors.tolist() == [2, 97, 98, 195]


@pytest.mark.parametrize("method", METHODS)
def test_a_list_of_one_gives_one_row(method: str) -> None:
    assert getattr(embedder(fake_server()), method)(["ab"]).tolist() == [[2, 97, 98, 195]]


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_list_gives_no_rows_of_the_right_width(method: str) -> None:
    assert getattr(embedder(fake_server()), method)([]).shape == (0, DIMENSION)


def test_an_empty_list_gives_the_width_that_truncate_dim_leaves() -> None:
    assert embedder(fake_server(), truncate_dim=3).encode([]).shape == (0, 3)


def test_an_empty_list_gives_float32() -> None:
    assert embedder(fake_server()).encode([]).dtype == np.float32


@pytest.mark.parametrize("method", METHODS)
def test_a_list_keeps_its_order(method: str) -> None:
    texts = ["bb", "a", "dddd", "", "ccc"]
    vectors = getattr(embedder(fake_server(max_batch_size=2)), method)(texts)
    assert vectors.tolist() == [vector(text) for text in texts]


@pytest.mark.parametrize("texts", [("a", "bb"), np.array(["a", "bb"]), (text for text in ["a", "bb"])])
def test_tuples_arrays_and_generators_are_lists_too(texts: Any) -> None:
    assert embedder(fake_server()).encode(texts).tolist() == [vector("a"), vector("bb")]


def test_vectors_are_float32() -> None:
    assert embedder(fake_server()).encode(["a"]).dtype == np.float32


def test_vectors_can_be_written_to() -> None:
    vectors = embedder(fake_server()).encode("ab")
    vectors += 1
    assert vectors.tolist() == [3, 98, 99, 196]


@pytest.mark.parametrize(
    ("method", "argument"), zip(METHODS, ["sentences", "queries", "corpus", "sentences"], strict=True)
)
def test_an_element_that_is_no_str_is_named_by_argument_and_index(method: str, argument: str) -> None:
    with pytest.raises(TypeError, match=rf"^{argument}\[1\] is None"):
        getattr(embedder(fake_server()), method)(["a", None])


@pytest.mark.parametrize(
    ("method", "argument"), zip(METHODS, ["sentences", "queries", "corpus", "sentences"], strict=True)
)
def test_flagembeddings_argument_names_are_keywords(method: str, argument: str) -> None:
    assert getattr(embedder(fake_server()), method)(**{argument: "ab"}).tolist() == vector("ab")


def test_nothing_is_sent_when_a_text_is_refused() -> None:
    fake = fake_server()
    with pytest.raises(TypeError):
        embedder(fake).encode(["a", 3])  # type: ignore[list-item]
    assert fake.requests == []


def test_a_lone_surrogate_is_named_by_index() -> None:
    with pytest.raises(ValueError, match=r"queries\[1\] holds a lone surrogate, U\+D83D"):
        embedder(fake_server()).encode_queries(["a", LONE_SURROGATE])


# How a list is split.


def test_batch_size_splits_a_list() -> None:
    fake = fake_server()
    embedder(fake, batch_size=2).encode(["a", "bb", "ccc"])
    assert [texts_of(request) for request in fake.requests] == [["ccc", "bb"], ["a"]]


def test_the_calls_batch_size_goes_before_the_objects() -> None:
    fake = fake_server()
    embedder(fake, batch_size=2).encode(["a", "bb", "ccc"], batch_size=1)
    assert [texts_of(request) for request in fake.requests] == [["ccc"], ["bb"], ["a"]]


def test_the_deployments_batch_size_splits_a_list_too() -> None:
    fake = fake_server(max_batch_size=2)
    embedder(fake, batch_size=256).encode(["a", "bb", "ccc"])
    assert [len(texts_of(request)) for request in fake.requests] == [2, 1]


def test_instructions_count_among_the_bytes_of_a_request() -> None:
    # 3 texts of 20,000 characters fit 65,536; with 10,000 more each only two do.
    fake = fake_server()
    texts = ["x" * 20_000] * 3
    embedder(fake).encode(texts)
    embedder(fake).encode(texts, instruction="i" * 10_000)
    assert [len(texts_of(request)) for request in fake.requests] == [3, 2, 1]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}, expected at least 1"):
        embedder(fake_server()).encode(["a"], batch_size=batch_size)


# Trouble on the way.


@pytest.mark.parametrize("failure", [ServerUnavailableError("busy"), RequestTimeoutError("late")])
def test_a_busy_or_late_server_is_asked_again(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: lambda seconds: None)
    fake = fake_server(failing_first(failure, failure))
    assert embedder(fake).encode("ab").tolist() == vector("ab")
    assert len(fake.requests) == 3


def test_a_busy_server_is_given_up_after_the_asked_number_of_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: lambda seconds: None)
    fake = fake_server(failing_first(*[ServerUnavailableError("busy")] * 9))
    with pytest.raises(ServerUnavailableError, match="busy"):
        embedder(fake, retries=2).encode("a")
    assert len(fake.requests) == 3


def test_a_refused_request_is_not_sent_again() -> None:
    fake = fake_server(failing_first(InvalidRequestError("option 'max_length' is 9999")))
    with pytest.raises(InvalidRequestError, match="option 'max_length' is 9999"):
        embedder(fake).encode("a", max_length=9999)
    assert len(fake.requests) == 1
