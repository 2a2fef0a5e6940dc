# SPDX-License-Identifier: Apache-2.0
"""What BGE-M3's arguments put on the wire, and how its lists become requests."""

from __future__ import annotations

from typing import Any

import pytest

from flagtriton.protocol.tensors import TEXT
from tests.support.fake_models import METHODS, fake_m3, m3, texts_of

ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}


def request_sizes(text_bytes: int, flags: dict[str, bool] = ALL, **deployed: Any) -> list[int]:
    """Return how many of three texts of one size travel in each request."""
    fake = fake_m3(**deployed)
    m3(fake).encode(["x" * text_bytes] * 3, **flags)
    return [len(texts_of(request)) for request in fake.requests]


# What is sent.


def test_texts_and_options_go_to_the_deployment_itself() -> None:
    fake = fake_m3()
    m3(fake, normalize_embeddings=False, truncate_dim=3, passage_max_length=9).encode("ab", **ALL)
    [request] = fake.requests
    assert (request.model, list(request.inputs), texts_of(request)) == ("bge-m3", [TEXT.name], ["ab"])
    assert request.parameters == {"max_length": 9, "normalize": False, "truncate_dim": 3}


@pytest.mark.parametrize(
    ("method", "length"), [("encode", 20), ("encode_queries", 10), ("encode_corpus", 20), ("encode_single_device", 512)]
)
def test_each_method_has_its_length(method: str, length: int) -> None:
    fake = fake_m3(max_length=8192)
    getattr(m3(fake, query_max_length=10, passage_max_length=20), method)("a")
    assert fake.requests[0].parameters["max_length"] == length


@pytest.mark.parametrize("method", METHODS)
def test_the_default_length_is_the_deployments_where_that_is_less(method: str) -> None:
    fake = fake_m3(max_length=128)
    getattr(m3(fake), method)("a")
    assert fake.requests[0].parameters["max_length"] == 128


@pytest.mark.parametrize("method", METHODS)
def test_a_calls_length_and_batch_size_go_before_the_objects(method: str) -> None:
    fake = fake_m3()
    getattr(m3(fake), method)(["a", "bb"], batch_size=1, max_length=30)
    assert [(texts_of(request), request.parameters["max_length"]) for request in fake.requests] == [
        (["bb"], 30),
        (["a"], 30),
    ]


@pytest.mark.parametrize(("method", "sent"), [("encode", "t"), ("encode_queries", "q: t"), ("encode_corpus", "p: t")])
def test_each_method_has_its_instruction(method: str, sent: str) -> None:
    fake = fake_m3()
    model = m3(fake, query_instruction_for_retrieval="q: ", passage_instruction_for_retrieval="p: ")
    getattr(model, method)("t")
    assert texts_of(fake.requests[0]) == [sent]


@pytest.mark.parametrize(
    ("method", "kind"), [("encode", None), ("encode_queries", "query"), ("encode_corpus", "passage")]
)
def test_each_method_says_what_kind_of_text_it_sends(method: str, kind: str | None) -> None:
    fake = fake_m3()
    getattr(m3(fake), method)("t")
    assert fake.requests[0].parameters.get("input_type") == kind


@pytest.mark.parametrize("method", ["encode", "encode_single_device"])
def test_an_instruction_of_the_call_is_put_before_the_texts(method: str) -> None:
    fake = fake_m3()
    getattr(m3(fake), method)("t", instruction="i", instruction_format="<{}> {}")
    assert texts_of(fake.requests[0]) == ["<i> t"]


# How long lists are cut: ColBERT vectors of at most 64 MiB = 2**26 bytes a reply, had every byte a vector.


def test_without_colbert_only_the_bytes_of_a_request_count() -> None:
    # 60,000 of 65,536.
    assert request_sizes(20_000, {"return_sparse": True}, colbert_dim=1024) == [3]


@pytest.mark.parametrize(
    ("deployed", "text_bytes", "sizes"),
    [
        # 1,024 components of 2 bytes are 2**11 a vector, so 2**15 = 32,768 vectors: two texts of 16,384, none more.
        ({"colbert_dim": 1024, "colbert_dtype": "fp16"}, 16_384, [2, 1]),
        ({"colbert_dim": 1024, "colbert_dtype": "fp16"}, 16_385, [1, 1, 1]),
        # Of 4 bytes: 16,384 vectors.
        ({"colbert_dim": 1024, "colbert_dtype": "fp32"}, 8_192, [2, 1]),
        ({"colbert_dim": 1024, "colbert_dtype": "fp32"}, 8_193, [1, 1, 1]),
        # A deployment that does not say: its hidden size, else 4,096 components, and 4 bytes.
        ({"colbert_dim": None, "hidden_size": 2048, "colbert_dtype": None}, 4_096, [2, 1]),
        ({"colbert_dim": None, "hidden_size": 2048, "colbert_dtype": None}, 4_097, [1, 1, 1]),
        ({"colbert_dim": None, "hidden_size": None, "colbert_dtype": None}, 2_048, [2, 1]),
        ({"colbert_dim": None, "hidden_size": None, "colbert_dtype": None}, 2_049, [1, 1, 1]),
    ],
)
def test_requests_with_colbert_are_cut_by_the_size_of_their_reply(
    deployed: dict[str, Any], text_bytes: int, sizes: list[int]
) -> None:
    assert request_sizes(text_bytes, **deployed) == sizes


# In which dtype ColBERT vectors travel.


@pytest.mark.parametrize(
    ("deployed", "sent"),
    [
        ({"colbert_dtype": "fp16", "colbert_dtype_by_request": True}, {"colbert_dtype": "fp16"}),
        ({"colbert_dtype": "fp32"}, {}),
        ({"colbert_dtype": "fp16"}, {}),  # by an earlier version, which refuses the option, and sends fp16
    ],
)
def test_colbert_vectors_are_asked_for_in_the_deployments_dtype(deployed: dict[str, Any], sent: dict[str, Any]) -> None:
    fake = fake_m3(**deployed)
    m3(fake).encode("t", return_colbert_vecs=True)
    m3(fake).encode("t", return_sparse=True)
    options = [{k: v for k, v in request.parameters.items() if k == "colbert_dtype"} for request in fake.requests]
    assert options == [sent, {}]
