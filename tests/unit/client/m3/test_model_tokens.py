# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's `convert_id_to_token`, in front of a fake server whose tokens are characters by number."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flagtriton import ModelNotServedError
from flagtriton.protocol.tensors import TOKEN, TOKEN_ID
from flagtriton.transport.base import InferenceReply
from flagtriton.transport.fake import FakeTransport, Request
from tests.support.fake_models import fake_m3, m3


def asked_ids(fake: FakeTransport) -> list[list[int]]:
    """Return the ids of each request."""
    return [request.inputs[TOKEN_ID.name][:, 0].tolist() for request in fake.requests]


def test_ids_become_tokens() -> None:
    # 97 is a, 233 is é, two bytes in UTF-8.
    assert m3(fake_m3()).convert_id_to_token({"97": 0.5, "233": 0.25}) == {"a": 0.5, "é": 0.25}


def test_a_list_gives_a_list() -> None:
    assert m3(fake_m3()).convert_id_to_token([{"97": 0.5}, {}, {"98": 1.0}]) == [{"a": 0.5}, {}, {"b": 1.0}]


def test_a_list_of_one_gives_a_dict_as_in_flagembedding() -> None:
    assert m3(fake_m3()).convert_id_to_token([{"97": 0.5}]) == {"a": 0.5}


def test_an_empty_list_gives_an_empty_list() -> None:
    fake = fake_m3()
    assert m3(fake).convert_id_to_token([]) == []
    assert fake.requests == []


def test_weights_keep_their_order() -> None:
    assert list(m3(fake_m3()).convert_id_to_token({"99": 1.0, "97": 2.0, "98": 3.0})) == ["c", "a", "b"]


def test_of_two_ids_with_the_same_token_the_later_wins_as_in_flagembedding() -> None:
    def one_token(request: Request) -> InferenceReply:
        return {TOKEN.name: np.full(request.inputs[TOKEN_ID.name].shape, b"x", dtype=object)}

    model = m3(fake_m3(one_token))
    assert model.convert_id_to_token({"97": 1.0, "98": 2.0}) == {"x": 2.0}


def test_every_id_is_asked_for_once_in_one_request_to_the_tokenizer() -> None:
    fake = fake_m3()
    m3(fake).convert_id_to_token([{"98": 1.0, "97": 1.0}, {"97": 2.0}])
    assert [(request.model, list(request.outputs)) for request in fake.requests] == [("bge-m3_tokenizer", ["token"])]
    assert asked_ids(fake) == [[97, 98]]


def test_more_ids_than_the_tokenizers_batch_are_asked_for_in_several_requests() -> None:
    fake = fake_m3(max_batch_size=2)
    converted = m3(fake).convert_id_to_token({str(number): 1.0 for number in range(97, 102)})
    assert (asked_ids(fake), list(converted)) == ([[97, 98], [99, 100], [101]], list("abcde"))


def test_known_ids_are_not_asked_for_again() -> None:
    fake = fake_m3()
    model = m3(fake)
    model.convert_id_to_token({"97": 1.0})
    model.convert_id_to_token({"97": 1.0, "98": 1.0})
    model.convert_id_to_token({"98": 1.0})
    assert asked_ids(fake) == [[97], [98]]


def test_the_outputs_of_encode_can_be_converted() -> None:
    model = m3(fake_m3(), return_sparse=True)
    assert model.convert_id_to_token(model.encode(["aab", "b"])["lexical_weights"]) == [{"a": 2, "b": 1}, {"b": 1}]


def test_a_tokenizer_that_is_not_served_is_named_with_what_to_do() -> None:
    model = m3(fake_m3(without="bge-m3_tokenizer"))
    with pytest.raises(ModelNotServedError, match=r"bge-m3 is served at fake://, but bge-m3_tokenizer, .* load it"):
        model.convert_id_to_token({"97": 1.0})


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "weights",
    [{}, {"97": 0.5, "98": 1.0}, [], [{}], [{"97": 0.5}], [{"97": 0.5}, {"98": 1.0}], defaultdict(int, {"97": 0.5})],
)
def test_the_reference_converts_alike(weights: Any) -> None:
    from FlagEmbedding import BGEM3FlagModel as Reference

    characters = SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda ids: chr(ids[0])))
    assert m3(fake_m3()).convert_id_to_token(weights) == Reference.convert_id_to_token(characters, weights)
